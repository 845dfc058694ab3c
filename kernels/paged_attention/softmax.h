// The exponentials of a softmax. To be included once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../array.h"
#include "../vectors.h"

namespace graftwork {
namespace {

// x[j] = exp(x[j] - top) for x[j] <= top: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
LEAF void exponentials(float* RESTRICT x, float top, std::int64_t count) {
    constexpr float rounder = 12582912.f;  // adding it leaves no fraction
    for (std::int64_t j = 0; j < count; j++) {
        const float z = x[j] - top < -87.f ? -87.f : x[j] - top;
        const float n = (z * 1.44269504088896341f + rounder) - rounder;
        const float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
        float p = 1.9875691500e-4f;
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = (p * r * r + r) + 1.f;
        const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        x[j] = p * power;
    }
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

float highest_by_vectors(const float* x, std::int64_t count) {
    const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 top = least;
    for (std::int64_t j = 0; j < count; j += LANE)
        top = _mm512_max_ps(_mm512_mask_loadu_ps(least, columns_left(count - j), x + j), top);
    return _mm512_reduce_max_ps(top);
}

// The same bits as `exponentials`.
void exponentials_by_vectors(float* x, float top, std::int64_t count) {
    const auto all = [](float value) { return _mm512_set1_ps(value); };
    const __m512 rounder = all(12582912.f);
    for (std::int64_t j = 0; j < count; j += LANE) {
        const __mmask16 mask = columns_left(count - j);
        const __m512 z = _mm512_max_ps(all(-87.f), _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + j), all(top)));
        const __m512 n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(z, all(1.44269504088896341f)), rounder), rounder);
        const __m512 r = _mm512_add_ps(
            _mm512_sub_ps(z, _mm512_mul_ps(n, all(0.693359375f))), _mm512_mul_ps(n, all(2.12194440e-4f)));
        __m512 p = all(1.9875691500e-4f);
        for (const float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
            p = _mm512_add_ps(_mm512_mul_ps(p, r), all(term));
        p = _mm512_add_ps(_mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(p, r), r), r), all(1.f));
        const __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127)), 23);
        _mm512_mask_storeu_ps(x + j, mask, _mm512_mul_ps(p, _mm512_castsi512_ps(bits)));
    }
}
#pragma GCC pop_options
#endif

// x[j] = exp(x[j] - the highest of them)
void soften(float* x, std::int64_t count) {
#ifdef GRAFTWORK_AVX512
    if (has_avx512()) return exponentials_by_vectors(x, highest_by_vectors(x, count), count);
#endif
    exponentials(x, *std::max_element(x, x + count), count);
}

}  // namespace
}  // namespace graftwork
