// The election and the disjoint mean of TIES, shared by ties_combine and sparse_combine.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "../array.h"

namespace graftwork {

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

inline float share_of(float weight, const std::string& divide) {
    if (divide == "weights") return std::fabs(weight);
    if (divide == "signed_weights") return weight;
    return divide == "count" ? 1.f : 0.f;
}

struct Election {
    Election(
        const std::vector<float>& all_weights, const std::string& vote, const std::string& divide, float zero_sign, float by)
        : weights(all_weights),
          largest(divide == "max"),
          floor(zero_sign > 0.f ? -std::numeric_limits<float>::denorm_min() : 0.f),
          scale(by) {
        for (const float weight : weights) {
            ballot_weights.push_back(vote == "weighted" ? weight : 1.f);
            shares.push_back(share_of(weight, divide));
        }
    }

    // Combine the differences of a block that agree with the sign of their `ballots`; the result is in `total`.
    void settle(
        const std::vector<Block>& differences, const float* ballots, const float* base, std::int64_t count) {
        clear(total, count);
        clear(divisor, count);
        for (std::size_t i = 0; i < weights.size(); i++) {
            const float* difference = differences[i].values;
            if (largest)
                raise_to_agreeing(total, difference, ballots, floor, weights[i], ballot_weights[i], count);
            else
                add_agreeing(
                    total, divisor, difference, ballots, floor, weights[i], ballot_weights[i], shares[i], count);
        }
        if (largest)
            finish_largest(total, ballots, base, floor, scale, count);
        else
            finish(total, divisor, ballots, base, scale, count);
    }

    std::vector<float> weights, ballot_weights, shares;
    bool largest;
    float floor, scale;
    alignas(64) float total[BLOCK];
    alignas(64) float divisor[BLOCK];
};

}  // namespace graftwork
