// The trimming of TIES, shared by ties_combine and ties_votes.
#pragma once

#include <algorithm>

#include "../magnitude.h"

namespace graftwork {

// difference = x - base where its magnitude's bit pattern is above `limit`, else 0; ballots += ballot_weight * difference.
LEAF void trim_and_vote(
    float* RESTRICT difference,
    float* RESTRICT ballots,
    const float* RESTRICT x,
    const float* RESTRICT base,
    std::int32_t limit,
    float ballot_weight,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = x[j] - base[j];
        const float kept = magnitude_bits(d) > limit ? d : 0.f;
        difference[j] = kept;
        ballots[j] += ballot_weight * kept;
    }
}

struct Trim {
    std::int32_t threshold;
    std::int64_t cutoff;  // an element that equals the threshold is kept when it stands before this position
    float ballot_weight;

    // Trim a block whose first element has the flat position `position`, and let what is left vote.
    void operator()(
        float* difference,
        float* ballots,
        const float* x,
        const float* base,
        std::int64_t position,
        std::int64_t count) const {
        const std::int64_t before = std::clamp(cutoff - position, std::int64_t{0}, count);
        trim_and_vote(difference, ballots, x, base, threshold - 1, ballot_weight, before);
        trim_and_vote(
            difference + before, ballots + before, x + before, base + before, threshold, ballot_weight, count - before);
    }
};

}  // namespace graftwork
