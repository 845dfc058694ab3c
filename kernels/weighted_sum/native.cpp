// The CPU twin of weighted_sum: one pass over the inputs, in blocks that stay in the first-level cache.
#include <algorithm>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void scale_into(float* RESTRICT sum, const float* RESTRICT x, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight * x[j];
}

LEAF void add_scaled(float* RESTRICT sum, const float* RESTRICT x, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * x[j];
}

LEAF void scale_difference_into(
    float* RESTRICT sum, const float* RESTRICT x, const float* RESTRICT base, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight * (x[j] - base[j]);
}

LEAF void add_scaled_difference(
    float* RESTRICT sum, const float* RESTRICT x, const float* RESTRICT base, float weight, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight * (x[j] - base[j]);
}

LEAF void scale_in_place(float* sum, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] *= scale;
}

LEAF void scale_and_add_base(float* RESTRICT sum, const float* RESTRICT base, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = base[j] + scale * sum[j];
}

}  // namespace

void weighted_sum(
    const Array& out,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const OptionalArray& base,
    float scale) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    check_counts(inputs.size(), {weights.size()});
    alignas(64) float sum[BLOCK], x_scratch[BLOCK], base_scratch[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base ? base->read(first, count, base_scratch) : nullptr;
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            if (origin)
                (i == 0 ? scale_difference_into : add_scaled_difference)(sum, x, origin, weights[i], count);
            else
                (i == 0 ? scale_into : add_scaled)(sum, x, weights[i], count);
        }
        if (origin)
            scale_and_add_base(sum, origin, scale, count);
        else
            scale_in_place(sum, scale, count);
        out.write(first, count, sum);
    }
}

}  // namespace graftwork
