// Where AVX-512 code can be compiled, and whether this processor runs it.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define GRAFTWORK_AVX512 1

#include <immintrin.h>

// Before a loop over registers: unrolled late, GCC would keep the array of them in memory.
#define UNROLL _Pragma("GCC unroll 16")

namespace graftwork {

inline bool has_avx512() {
    static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has;
}

inline bool has_avx512_bf16() {
    static const bool has = has_avx512() && __builtin_cpu_supports("avx512bf16");
    return has;
}

}  // namespace graftwork
#endif
