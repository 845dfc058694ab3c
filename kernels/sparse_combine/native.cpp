// The CPU twin of sparse_combine: one pass over the inputs, in blocks that stay in the first-level cache.
#include "../magnitude.h"
#include "../native.h"
#include "../philox/philox.h"
#include "../rank_chances/ranking.h"
#include "../ties_combine/elect.h"

namespace graftwork {
namespace {

// The magnitudes that a mask keeps.
struct Band {
    std::int32_t above, up_to;
};

// What is not kept becomes d - d: 0, but NaN where d is not finite, so that no mask hides a broken input.
inline float kept(float d, Band band) {
    const std::int32_t bits = magnitude_bits(d);
    return (bits > band.above) & (bits <= band.up_to) ? d : d - d;
}

inline float uniform(std::uint32_t word) { return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24f; }

// Each of these finds the masked differences of a block, and adds them by weight to its ballots.
LEAF void keep(
    float* RESTRICT difference,
    float* RESTRICT ballots,
    const float* RESTRICT x,
    const float* RESTRICT base,
    Band band,
    float weight,
    float factor,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        difference[j] = kept(x[j] - base[j], band) * factor;
        ballots[j] += weight * difference[j];
    }
}

LEAF void draw(
    float* RESTRICT difference,
    float* RESTRICT ballots,
    const float* RESTRICT x,
    const float* RESTRICT base,
    Band band,
    float weight,
    const std::uint32_t* RESTRICT words,
    float chance,
    float factor,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = kept(x[j] - base[j], band);
        difference[j] = uniform(words[j]) < chance ? d * factor : d - d;
        ballots[j] += weight * difference[j];
    }
}

LEAF void draw_each(
    float* RESTRICT difference,
    float* RESTRICT ballots,
    const float* RESTRICT x,
    const float* RESTRICT base,
    Band band,
    float weight,
    const std::uint32_t* RESTRICT words,
    const float* RESTRICT chances,
    float factor,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = kept(x[j] - base[j], band);
        difference[j] = uniform(words[j]) < chances[j] ? d * factor : d - d;
        ballots[j] += weight * difference[j];
    }
}

LEAF void draw_each_by_chance(
    float* RESTRICT difference,
    float* RESTRICT ballots,
    const float* RESTRICT x,
    const float* RESTRICT base,
    Band band,
    float weight,
    const std::uint32_t* RESTRICT words,
    const float* RESTRICT chances,
    std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) {
        const float d = kept(x[j] - base[j], band);
        const float reweighed = d / chances[j];
        difference[j] = uniform(words[j]) < chances[j] ? reweighed : d - d;
        ballots[j] += weight * difference[j];
    }
}

LEAF void scale_and_add_base(float* RESTRICT sum, const float* RESTRICT base, float scale, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) sum[j] = base[j] + scale * sum[j];
}

class Sieve {
   public:
    explicit Sieve(const Mask& mask)
        : floor_(std::get<0>(mask)),
          floor_cutoff_(std::get<1>(mask)),
          ceiling_(std::get<2>(mask)),
          ceiling_cutoff_(std::get<3>(mask)),
          key_(std::get<5>(mask)),
          factor_(std::get<6>(mask)) {
        const Chance& chance = std::get<4>(mask);
        if (const Array* each = std::get_if<Array>(&chance))
            each_ = each->float32();
        else if (const ByRank* ranked = std::get_if<ByRank>(&chance))
            ranked_.emplace(std::get<0>(*ranked), std::get<1>(*ranked), std::get<2>(*ranked));
        else
            chance_ = std::get<float>(chance);
    }

    // The chances of a block's elements, or nothing where they have one; blocks are asked for in order.
    const float* chances(
        Ranking& ranking, const Array& x, const OptionalArray& base, std::int64_t first, std::int64_t count) {
        if (ranked_) return ranked_->read(ranking, x, base, first, count);
        return each_ ? each_ + first : nullptr;
    }

    // The masked difference of a block whose first element is at `position` in the tensor, added by weight to `ballots`.
    void operator()(
        float* difference,
        float* ballots,
        const float* x,
        const float* base,
        const float* chances,
        float weight,
        std::int64_t position,
        std::int64_t count) {
        const bool drawn = chances || chance_ < 1.f;
        const std::uint32_t* words = drawn ? philox_words(words_, key_, position, count) : nullptr;
        const std::int64_t low = std::clamp(floor_cutoff_ - position, std::int64_t{0}, count);
        const std::int64_t high = std::clamp(ceiling_cutoff_ - position, std::int64_t{0}, count);
        std::int64_t at = 0;
        for (const std::int64_t end : {std::min(low, high), std::max(low, high), count}) {
            const Band band{floor_ - (at < low), ceiling_ - (at < high)};
            float *to = difference + at, *sum = ballots + at;
            const float *from = x + at, *origin = base + at;
            if (end == at)
                continue;
            else if (!drawn)
                keep(to, sum, from, origin, band, weight, *factor_, end - at);
            else if (!chances)
                draw(to, sum, from, origin, band, weight, words + at, chance_, *factor_, end - at);
            else if (factor_)
                draw_each(to, sum, from, origin, band, weight, words + at, chances + at, *factor_, end - at);
            else
                draw_each_by_chance(to, sum, from, origin, band, weight, words + at, chances + at, end - at);
            at = end;
        }
    }

   private:
    std::int32_t floor_;
    std::int64_t floor_cutoff_;
    std::int32_t ceiling_;
    std::int64_t ceiling_cutoff_;
    std::uint64_t key_;
    std::optional<float> factor_;
    const float* each_ = nullptr;
    std::optional<RankedRows> ranked_;
    float chance_ = 1.f;
    Words words_;
};

}  // namespace

void sparse_combine(
    const Array& out,
    const Array& base,
    const std::vector<Array>& inputs,
    const std::vector<float>& weights,
    const std::vector<Mask>& masks,
    std::int64_t offset,
    float scale,
    const std::string& vote,
    const std::string& divide) {
    check_sizes(out.size, inputs);
    check_sizes(out.size, base);
    check_counts(inputs.size(), {weights.size(), masks.size()});
    const bool elects = vote != "none";
    Election election(weights, vote, divide, 1.f, scale);
    std::vector<Sieve> sieves(masks.begin(), masks.end());
    std::vector<Block> differences(inputs.size());
    const OptionalArray origins = base;
    Ranking ranking;
    alignas(64) float x_scratch[BLOCK], base_scratch[BLOCK], ballots[BLOCK];
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const float* origin = base.read(first, count, base_scratch);
        clear(ballots, count);
        for (std::size_t i = 0; i < inputs.size(); i++) {
            const float* x = inputs[i].read(first, count, x_scratch);
            const float* chances = sieves[i].chances(ranking, inputs[i], origins, first, count);
            const float weight = elects ? election.ballot_weights[i] : weights[i];
            sieves[i](differences[i].values, ballots, x, origin, chances, weight, offset + first, count);
        }
        if (elects)
            election.settle(differences, ballots, origin, count);
        else
            scale_and_add_base(ballots, origin, scale, count);
        out.write(first, count, elects ? election.total : ballots);
    }
}

}  // namespace graftwork
