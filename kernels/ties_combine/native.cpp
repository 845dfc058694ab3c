// The CPU twin of ties_combine: one pass over the inputs, in blocks that stay in the first-level cache.
#include "../native.h"
#include "elect.h"
#include "trim.h"

namespace graftwork {

void ties_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const std::vector<std::int32_t>& thresholds,
    const std::vector<std::int64_t>& cutoffs,
    std::int64_t offset,
    float scale,
    const std::string& vote,
    const std::string& divide,
    float zero_sign) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    check_counts(inputs.size(), {weights.size(), thresholds.size(), cutoffs.size()});
    Election election(weights, vote, divide, zero_sign, scale);
    std::vector<Block> differences(inputs.size());
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], ballots[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        clear(ballots, count);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            const Trim trim{thresholds[i], cutoffs[i], election.ballot_weights[i]};
            trim(differences[i].values, ballots, x, origin, offset + first, count);
        }
        election.settle(differences, ballots, origin, count);
        out.write(first, count, election.total);
    }
}

}  // namespace graftwork
