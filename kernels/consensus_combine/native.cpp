// The CPU twin of consensus_combine.
#include <algorithm>
#include <cmath>

#include "../native.h"

namespace graftwork {
namespace {

LEAF void subtract_and_add(
    float* RESTRICT difference,
    float* RESTRICT sum,
    const float* RESTRICT x,
    const float* RESTRICT base,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = x[j] - base[j];
        difference[j] = d;
        sum[j] += d;
    }
}

LEAF void count_agreeing(
    std::int32_t* RESTRICT agreeing,
    const float* RESTRICT difference,
    const float* RESTRICT merged,
    float mask_lambda,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++)
        agreeing[j] += std::fabs(difference[j]) > mask_lambda * std::fabs(merged[j] - difference[j]);
}

LEAF void apply(
    float* RESTRICT result,
    const std::int32_t* RESTRICT agreeing,
    const float* RESTRICT merged,
    const float* RESTRICT base,
    std::int32_t min_agree,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float value = agreeing[j] >= min_agree ? merged[j] : merged[j] - merged[j];
        result[j] = base[j] + scale * value;
    }
}

}  // namespace

void consensus_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const OptionalArray& merged,
    const std::vector<float>& mask_lambdas,
    std::int32_t min_agree,
    float scale) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    check_sizes(out.size, merged);
    check_counts(inputs.size(), {mask_lambdas.size()});
    std::vector<Block> differences(inputs.size());
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], sum[BLOCK], merged_scratch[BLOCK], result[BLOCK];
    alignas(64) std::int32_t agreeing[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        clear(sum, count);
        std::fill(agreeing, agreeing + count, 0);
        for (std::size_t i = 0; i < inputs.size(); i++)
            subtract_and_add(differences[i].values, sum, inputs[i].read(first, count, x_scratch), origin, count);
        const float* value = merged ? merged->read(first, count, merged_scratch) : sum;
        for (std::size_t i = 0; i < inputs.size(); i++)
            count_agreeing(agreeing, differences[i].values, value, mask_lambdas[i], count);
        apply(result, agreeing, value, origin, min_agree, scale, count);
        out.write(first, count, result);
    }
}

}  // namespace graftwork
