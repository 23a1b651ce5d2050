// Runs a CUDA kernel of kernels_cuda/ on the CPU: enough of CUDA C++ for these sources, for tests only.
//
// Blocks run one after another (that lets `__shared__` be static), up or down; the threads of a block are fibers that
// change only at barriers and warp operations. Which warp and which lane runs ahead is chosen by the caller: results that
// depend on it betray a missing barrier, and every time, unlike a race of real threads. Shared memory is NaN bytes
// when a block starts. A barrier that some threads never reach ends in an error, not in a hang.
#pragma once

#undef _FORTIFY_SOURCE  // its longjmp does not know that there are fibers
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <random>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define SHARED_SECTION  // GCC does not put red zones around variables of a named section
#else
#define SHARED_SECTION __attribute__((section("cuda_shared")))
extern "C" char __start_cuda_shared[] __attribute__((weak));
extern "C" char __stop_cuda_shared[] __attribute__((weak));
#endif

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) float2 {
    float x, y;
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static SHARED_SECTION
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(shim::dynamic_shared.get())

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace shim {

constexpr size_t STACK = 256 << 10;
constexpr unsigned LANES = 32;

struct Fiber {
    ucontext_t context;
    jmp_buf state;
    void* jumps[5];  // of __builtin_setjmp
    std::unique_ptr<char[]> stack{new char[STACK]};
    dim3 index;
    bool done = true, begun = false;
    const unsigned* waits_on;  // the generation counter of its barrier, while it waits
    unsigned generation;
    void* fake_stack = nullptr;
};

struct Barrier {
    unsigned arrived, generation;
};

struct Warp {
    Barrier barrier;
    unsigned size;
    uint64_t slot[LANES];
};

inline std::unique_ptr<char[]> dynamic_shared;  // as long as the launch says: the address sanitizer sees its ends
inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline bool block_any[2];  // __syncthreads_or of the last two generations of the barrier
inline ucontext_t scheduler;
inline jmp_buf scheduler_state;
inline void* scheduler_fake_stack;
inline const void* scheduler_stack;
inline size_t scheduler_stack_size;
inline unsigned current, threads;
inline void (*body)();

inline void fiber_main();

[[gnu::noinline]] inline void begin(Fiber& fiber) {  // apart, since getcontext counts as returning twice
    fiber.begun = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    swapcontext(&scheduler, &fiber.context);
}

#ifdef __SANITIZE_ADDRESS__
// The built-in jumps: for the address sanitizer, swapcontext and longjmp clear all red zones of a stack, ten times as
// slow as the threads. Without the sanitizer, which would add a call before a jump that does so, too.
inline void* jumps_to_scheduler[5];

[[gnu::noinline, gnu::no_sanitize_address]] inline void jump_to(Fiber& fiber) {
    if (__builtin_setjmp(jumps_to_scheduler)) return;
    if (fiber.begun) __builtin_longjmp(fiber.jumps, 1);
    begin(fiber);
}

[[gnu::noinline, gnu::no_sanitize_address]] inline void jump_from(Fiber& fiber) {
    if (!__builtin_setjmp(fiber.jumps)) __builtin_longjmp(jumps_to_scheduler, 1);
}

inline void enter_fiber(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack.get(), STACK);
    jump_to(fiber);
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

inline void leave_fiber(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack, scheduler_stack_size);
    jump_from(fiber);
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_size);
}
#else  // a tenth of the time: swapcontext is a system call
inline void enter_fiber(Fiber& fiber) {
    if (_setjmp(scheduler_state)) return;
    if (fiber.begun) _longjmp(fiber.state, 1);
    begin(fiber);
}

inline void leave_fiber(Fiber& fiber) {
    if (!_setjmp(fiber.state)) _longjmp(scheduler_state, 1);
}
#endif

inline void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
    for (;;) {  // a thread of a block after that of another
        body();
        fibers[current].done = true;
        leave_fiber(fibers[current]);
    }
}

inline void arrive_and_wait(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    Fiber& fiber = fibers[current];
    fiber.waits_on = &barrier.generation;
    fiber.generation = barrier.generation;
    leave_fiber(fiber);
}

inline unsigned flat_thread() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

// All lanes of the warp hand in a value; `read` sees the 32 slots before any lane goes on.
template <class T, class Read>
auto exchange(unsigned mask, T value, Read read) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    if (mask != 0xffffffffu) {
        fprintf(stderr, "shim: only full-warp operations are emulated\n");
        abort();
    }
    const unsigned thread = flat_thread();
    Warp& warp = warps[thread / LANES];
    memcpy(&warp.slot[thread % LANES], &value, sizeof(T));
    arrive_and_wait(warp.barrier, warp.size);
    auto result = read(warp, thread % LANES);
    arrive_and_wait(warp.barrier, warp.size);
    return result;
}

template <class T>
T from_slot(const Warp& warp, unsigned lane, unsigned own) {
    T value;
    memcpy(&value, &warp.slot[lane < warp.size ? lane : own], sizeof(T));
    return value;
}

// Runs a thread to its next barrier, if it may run.
inline bool advance(unsigned thread) {
    Fiber& fiber = fibers[thread];
    if (fiber.done || (fiber.waits_on && *fiber.waits_on == fiber.generation)) return false;
    fiber.waits_on = nullptr;
    current = thread;
    threadIdx = fiber.index;
    enter_fiber(fiber);
    return true;
}

// One block. 0, or 1 where threads wait at a barrier that the others do not reach.
inline int run_block(unsigned order, std::mt19937& random) {
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        if (!fiber.done) fiber.begun = false;  // it waits at a barrier that the others did not reach
        fiber.done = false;
        fiber.waits_on = nullptr;
        fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    }
    block_barrier = {};
    std::vector<unsigned> visits(warps.size()), lanes(LANES);
    for (unsigned i = 0; i < warps.size(); ++i) {
        warps[i] = {{}, std::min(LANES, threads - i * LANES), {}};
        visits[i] = order == 1 ? warps.size() - 1 - i : i;
    }
    for (unsigned i = 0; i < LANES; ++i) lanes[i] = order == 1 ? LANES - 1 - i : i;
    for (bool progress = true; progress;) {
        progress = false;
        if (order > 1) {
            std::shuffle(visits.begin(), visits.end(), random);
            std::shuffle(lanes.begin(), lanes.end(), random);
        }
        for (unsigned warp : visits)  // each warp runs ahead of the others as far as it can
            for (bool moved = true; moved;) {
                moved = false;
                for (unsigned lane : lanes)
                    if (lane < warps[warp].size) moved |= advance(warp * LANES + lane);
                progress |= moved;
            }
    }
    return !std::all_of(fibers.begin(), fibers.begin() + threads, [](const Fiber& fiber) { return fiber.done; });
}

template <class... P, size_t... I>
int run(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, unsigned order, void** arguments,
        std::index_sequence<I...>) {
    static std::tuple<P...>* values;
    static void (*entry)(P...);
    std::tuple<P...> unpacked{*static_cast<std::remove_cv_t<P>*>(arguments[I])...};
    values = &unpacked;
    entry = kernel;
    body = [] { std::apply(entry, *values); };
    gridDim = grid;
    blockDim = block;
    threads = block.x * block.y * block.z;
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    warps.resize((threads + LANES - 1) / LANES);
    std::mt19937 random(order);
    const unsigned blocks = grid.x * grid.y * grid.z;
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned b = order == 1 ? blocks - 1 - i : i;  // two blocks that write one place show, too
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        dynamic_shared.reset(new char[shared]);
        memset(dynamic_shared.get(), 0xff, shared);
#ifndef __SANITIZE_ADDRESS__
        if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
#endif
        if (run_block(order, random)) return 1;
    }
    return 0;
}

// What the kernel takes, a letter a parameter: p(ointer) and the size of what it points to, i(nt), f(loat), d(ouble).
template <class P>
void describe(char*& text) {
    if constexpr (std::is_pointer_v<P>) {
        *text++ = 'p';
        *text++ = '0' + sizeof(std::remove_pointer_t<P>);
    } else {
        static_assert(std::is_same_v<P, int> || std::is_floating_point_v<P>, "add its letter here");
        *text++ = std::is_same_v<P, int> ? 'i' : std::is_same_v<P, float> ? 'f' : 'd';
    }
}

template <class... P>
const char* signature(void (*)(P...)) {
    static char text[2 * sizeof...(P) + 1];
    char* end = text;
    (describe<P>(end), ...);
    *end = 0;
    return text;
}

template <class... P>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, unsigned order, void** arguments) {
    return run(kernel, grid, block, shared, order, arguments, std::index_sequence_for<P...>{});
}

}  // namespace shim

inline void __syncthreads() { shim::arrive_and_wait(shim::block_barrier, shim::threads); }

inline int __syncthreads_or(int predicate) {
    shim::Barrier& barrier = shim::block_barrier;
    bool& any = shim::block_any[barrier.generation % 2];
    if (barrier.arrived == 0) any = false;
    any |= predicate != 0;
    shim::arrive_and_wait(barrier, shim::threads);
    return any;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return shim::exchange(mask, value, [bits](const shim::Warp& warp, unsigned lane) {
        return shim::from_slot<T>(warp, lane ^ bits, lane);
    });
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return shim::exchange(mask, predicate, [](const shim::Warp& warp, unsigned lane) {
        unsigned ballot = 0;
        for (unsigned i = 0; i < warp.size; ++i) ballot |= unsigned(shim::from_slot<int>(warp, i, lane) != 0) << i;
        return ballot;
    });
}

// Threads change only at barriers: nothing comes between the reading and the writing of these.
template <class T>
T atomicAdd(T* address, T value) {
    return std::exchange(*address, *address + value);
}

template <class T>
T atomicMin(T* address, T value) {
    return std::exchange(*address, std::min(*address, value));
}

template <class T>
T atomicExch(T* address, T value) {
    return std::exchange(*address, value);
}

inline void __threadfence() {}  // blocks run one after another

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline void sincospif(float x, float* sine, float* cosine) {
    *sine = float(sin(M_PI * x));
    *cosine = float(cos(M_PI * x));
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float2 make_float2(float x, float y) { return {x, y}; }
using std::max;
using std::min;
