// The exponentials of a softmax. To be included once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../array.h"
#include "../exponential.h"
#include "../vectors.h"

namespace graftwork {
namespace {

LEAF void exponentials(float* RESTRICT x, float top, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) x[j] = exponential(x[j] - top);
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

void exponentials_by_vectors(float* x, float top, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j += LANE) {
        const __mmask16 mask = columns_left(count - j);
        _mm512_mask_storeu_ps(x + j, mask, exponential(_mm512_maskz_loadu_ps(mask, x + j) - top));
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
