// The CPU twin of ties_votes.
#include "../native.h"
#include "../ties_combine/trim.h"

namespace graftwork {
namespace {

LEAF std::int32_t count_signs(const float* sum, std::int64_t count) {
    std::int32_t votes = 0;
    for (std::int64_t j = 0; j < count; j++) votes += (sum[j] > 0.f) - (sum[j] < 0.f);
    return votes;
}

}  // namespace

std::int64_t ties_votes(
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<std::int32_t>& thresholds,
    const std::vector<std::int64_t>& cutoffs,
    std::int64_t offset) {
    check_sizes(base.size, inputs);
    check_counts(inputs.size(), {thresholds.size(), cutoffs.size()});
    std::int64_t votes = 0;
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], difference[BLOCK], sum[BLOCK];
    for (std::int64_t first = 0; first < base.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, base.size - first);
        const float* origin = base.read(first, count, base_scratch);
        clear(sum, count);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            Trim{thresholds[i], cutoffs[i], 1.f}(difference, sum, x, origin, offset + first, count);
        }
        votes += count_signs(sum, count);
    }
    return votes;
}

}  // namespace graftwork
