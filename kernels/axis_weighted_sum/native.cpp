// The CPU twin of axis_weighted_sum.
#include <algorithm>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void multiply_into(
    float* RESTRICT sum, const float* RESTRICT weight, const float* RESTRICT x, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight[j] * x[j];
}

LEAF void add_multiplied(
    float* RESTRICT sum, const float* RESTRICT weight, const float* RESTRICT x, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight[j] * x[j];
}

LEAF void multiply_difference_into(
    float* RESTRICT sum,
    const float* RESTRICT weight,
    const float* RESTRICT x,
    const float* RESTRICT base,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = weight[j] * (x[j] - base[j]);
}

LEAF void add_multiplied_difference(
    float* RESTRICT sum,
    const float* RESTRICT weight,
    const float* RESTRICT x,
    const float* RESTRICT base,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] += weight[j] * (x[j] - base[j]);
}

LEAF void scale_in_place(float* sum, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] *= scale;
}

LEAF void scale_and_add_base(float* RESTRICT sum, const float* RESTRICT base, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = base[j] + scale * sum[j];
}

// The coefficients of `count` elements from the flat position `position` on.
void spread(
    float* to, const float* weights, std::int64_t columns, bool by_row, std::int64_t position, std::int64_t count) {
    std::int64_t row = position / columns, column = position % columns;
    for (std::int64_t done = 0; done < count; row++, column = 0) {
        const std::int64_t run = std::min(columns - column, count - done);
        if (by_row)
            std::fill(to + done, to + done + run, weights[row]);
        else
            std::copy(weights + column, weights + column + run, to + done);
        done += run;
    }
}

}  // namespace

void axis_weighted_sum(
    const Array& out,
    const std::vector<Array>& inputs,
    const Array& weights,
    std::int64_t columns,
    std::int64_t offset,
    const std::string& axis,
    const OptionalArray& base,
    float scale) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    const bool by_row = axis == "row";
    const std::int64_t groups = weights.size / static_cast<std::int64_t>(inputs.size());
    if (groups < (by_row ? (offset + out.size + columns - 1) / columns : columns))
        throw std::invalid_argument("the weights do not cover the elements");
    alignas(64) float sum[BLOCK], weight[BLOCK], x_scratch[BLOCK], base_scratch[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base ? base->read(first, count, base_scratch) : nullptr;
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            const float* own = weights.float32() + static_cast<std::int64_t>(i) * groups;
            spread(weight, own, columns, by_row, offset + first, count);
            if (origin)
                (i == 0 ? multiply_difference_into : add_multiplied_difference)(sum, weight, x, origin, count);
            else
                (i == 0 ? multiply_into : add_multiplied)(sum, weight, x, count);
        }
        if (origin)
            scale_and_add_base(sum, origin, scale, count);
        else
            scale_in_place(sum, scale, count);
        out.write(first, count, sum);
    }
}

}  // namespace graftwork
