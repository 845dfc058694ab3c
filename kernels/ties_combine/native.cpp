// The CPU twin of ties_combine: one pass over the inputs, in blocks that stay in the first-level cache.
#include <cmath>
#include <limits>

#include "../native.h"
#include "trim.h"

namespace graftwork {
namespace {

// The elected sign is positive where the sum of the ballots is above `floor`: 0, or the largest number below 0 when an
// undecided vote elects +1. A NaN elects none, but is carried to the result.
inline bool agrees(float ballot, float ballots, float floor) { return (ballots > floor ? ballot : -ballot) > 0.f; }

// Add the terms that agree to `total`, their shares to `divisor`.
LEAF void add_agreeing(
    float* RESTRICT total,
    float* RESTRICT divisor,
    const float* RESTRICT difference,
    const float* RESTRICT ballots,
    float floor,
    float weight,
    float ballot_weight,
    float share,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const bool chosen = agrees(ballot_weight * difference[j], ballots[j], floor);
        total[j] += chosen ? weight * difference[j] : 0.f;
        divisor[j] += chosen ? share : 0.f;
    }
}

// Raise `largest` to the magnitudes of the terms that agree.
LEAF void raise_to_agreeing(
    float* RESTRICT largest,
    const float* RESTRICT difference,
    const float* RESTRICT ballots,
    float floor,
    float weight,
    float ballot_weight,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const bool chosen = agrees(ballot_weight * difference[j], ballots[j], floor);
        const float magnitude = chosen ? std::fabs(weight * difference[j]) : 0.f;
        largest[j] = magnitude > largest[j] ? magnitude : largest[j];
    }
}

LEAF void finish(
    float* RESTRICT total,
    const float* RESTRICT divisor,
    const float* RESTRICT ballots,
    const float* RESTRICT base,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float value = total[j] / (divisor[j] == 0.f ? 1.f : divisor[j]);
        total[j] = base[j] + scale * (ballots[j] == ballots[j] ? value : ballots[j]);
    }
}

LEAF void finish_largest(
    float* RESTRICT largest,
    const float* RESTRICT ballots,
    const float* RESTRICT base,
    float floor,
    float scale,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float value = ballots[j] > floor ? largest[j] : -largest[j];
        largest[j] = base[j] + scale * (ballots[j] == ballots[j] ? value : ballots[j]);
    }
}

float share_of(float weight, const std::string& divide) {
    if (divide == "weights") return std::fabs(weight);
    if (divide == "signed_weights") return weight;
    return divide == "count" ? 1.f : 0.f;
}

}  // namespace

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
    const bool largest = divide == "max";
    const float floor = zero_sign > 0.f ? -std::numeric_limits<float>::denorm_min() : 0.f;
    std::vector<float> ballot_weights, shares;
    for (const float weight : weights) {
        ballot_weights.push_back(vote == "weighted" ? weight : 1.f);
        shares.push_back(share_of(weight, divide));
    }
    std::vector<Block> differences(inputs.size());
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], ballots[BLOCK], total[BLOCK], divisor[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        std::fill(ballots, ballots + count, 0.f);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            const Trim trim{thresholds[i], cutoffs[i], ballot_weights[i]};
            trim(differences[i].values, ballots, x, origin, offset + first, count);
        }
        std::fill(total, total + count, 0.f);
        std::fill(divisor, divisor + count, 0.f);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* difference = differences[i].values;
            if (largest)
                raise_to_agreeing(total, difference, ballots, floor, weights[i], ballot_weights[i], count);
            else
                add_agreeing(
                    total, divisor, difference, ballots, floor, weights[i], ballot_weights[i], shares[i], count);
        }
        if (largest)
            finish_largest(total, ballots, origin, floor, scale, count);
        else
            finish(total, divisor, ballots, origin, scale, count);
        out.write(first, count, total);
    }
}

}  // namespace graftwork
