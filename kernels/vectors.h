// Vectors of 16 elements, float32 in registers whatever they are in memory. To be included once, inside a source that is
// compiled for any processor; call nothing of it unless avx512.h says that the processor has the instructions.
#pragma once

#include "avx512.h"

#ifdef GRAFTWORK_AVX512
#include <cstdint>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace graftwork {
namespace {

constexpr std::int64_t LANE = 16;  // columns of a vector

struct Floats {
    using Element = float;
    static __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
    static void store(float* p, __mmask16 mask, __m512 value) { _mm512_mask_storeu_ps(p, mask, value); }
    static __m512 rounded(__m512 value) { return value; }  // as if stored and loaded
};

struct BFloats {
    using Element = std::uint16_t;
    static __m512 load(const std::uint16_t* p, __mmask16 mask) { return wide(_mm256_maskz_loadu_epi16(mask, p)); }
    static void store(std::uint16_t* p, __mmask16 mask, __m512 value) {
        _mm256_mask_storeu_epi16(p, mask, narrow(value));
    }
    static __m512 rounded(__m512 value) { return wide(narrow(value)); }

private:
    static __m512 wide(__m256i halves) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    static __m256i narrow(__m512 value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }
};

__mmask16 columns_left(std::int64_t count) {
    return static_cast<__mmask16>(count >= LANE ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

}  // namespace
}  // namespace graftwork
#pragma GCC pop_options
#endif
