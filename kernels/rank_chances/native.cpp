// The CPU twin of rank_chances: two visits to a table of bins for each element, where the bins nearly tell all magnitudes
// of a row apart; else a radix sort.
#include <algorithm>

#include "../magnitude.h"
#include "../native.h"
#include "radix.h"

namespace graftwork {
namespace {

constexpr std::int64_t STRIPES = 32;  // stretches of the table that are added up side by side
constexpr std::int64_t BINS = 64 * STRIPES;
constexpr std::int64_t REACH = BINS / 2 - 1;  // patterns of 16 bits, from the row's largest down, that have bins
constexpr std::int64_t WIDEST = 0xffff;  // what 16 bits can count
constexpr std::int64_t CROWDED = 8;  // one element in so many with more than 16 bits: sorting is faster

using Count = std::uint16_t;

LEAF std::int32_t largest_of(const std::int32_t* keys, std::int64_t count) {
    std::int32_t largest = 0;
    for (std::int64_t j = 0; j < count; j++) largest = keys[j] > largest ? keys[j] : largest;
    return largest;
}

// An even bin holds equals: those whose pattern has no more than its high 16 bits, as nearly all differences of bfloat16
// have. The odd bin above it holds what lies between that pattern and the next, bin 0 zeros, bin 1 all that is too small.
// Bin b lies at place b / 64 of each of the stripes' line b % 64. Returns how many elements are in odd bins.
LEAF std::int32_t find_bins(
    std::uint16_t* RESTRICT bins, const std::int32_t* RESTRICT keys, std::int32_t floor, std::int64_t count) {
    constexpr std::int32_t lines = BINS / STRIPES;
    std::int32_t odd = 0;
    for (std::int64_t j = 0; j < count; j++) {
        const std::int32_t key = keys[j];
        std::int32_t bin = 2 * ((key >> 16) - floor) + ((key & 0xffff) != 0);
        bin = bin < 1 ? 1 : bin;
        bin = key == 0 ? 0 : bin;
        odd += bin & 1;
        bins[j] = static_cast<std::uint16_t>(bin % lines * STRIPES + bin / lines);
    }
    return odd;
}

// Counts by bin of both halves of a row become the ranks at which each half's elements of a bin begin, the second half's
// first: of equals the lowest index ranks highest.
LEAF void to_starts(Count* RESTRICT first, Count* RESTRICT second) {
    alignas(64) Count sums[STRIPES] = {}, before[STRIPES];
    for (std::int64_t line = 0; line < BINS; line += STRIPES)
        for (std::int64_t stripe = 0; stripe < STRIPES; stripe++) {
            const Count start = sums[stripe];
            const Count middle = static_cast<Count>(start + second[line + stripe]);
            sums[stripe] = static_cast<Count>(middle + first[line + stripe]);
            second[line + stripe] = start;
            first[line + stripe] = middle;
        }
    Count total = 0;
    for (std::int64_t stripe = 0; stripe < STRIPES; stripe++) {
        before[stripe] = total;
        total = static_cast<Count>(total + sums[stripe]);
    }
    for (std::int64_t line = 0; line < BINS; line += STRIPES)
        for (std::int64_t stripe = 0; stripe < STRIPES; stripe++) {
            first[line + stripe] = static_cast<Count>(first[line + stripe] + before[stripe]);
            second[line + stripe] = static_cast<Count>(second[line + stripe] + before[stripe]);
        }
}

LEAF void write_chances(
    float* RESTRICT chances, const std::int32_t* RESTRICT ranks, float low, float step, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) chances[j] = low + step * static_cast<float>(ranks[j]);
}

// The ranks of the magnitudes of a row, equals from its last index to its first.
class Ranks {
   public:
    explicit Ranks(std::int64_t width)
        : width_(width), half_(width / 2), keys_(width), ranks_(width), bins_(width + 4), mixed_(width), sorted_(width) {}

    std::int32_t* keys() { return keys_.data(); }

    // Rank the patterns in `keys`: int32 [width].
    const std::int32_t* find() {
        if (width_ > WIDEST || !find_by_bins())
            sorted_.sort(keys_.data(), [&](std::uint32_t rank, std::uint32_t index) {
                ranks_[index] = static_cast<std::int32_t>(rank);
            });
        return ranks_.data();
    }

   private:
    bool find_by_bins() {
        const std::int32_t highest = largest_of(keys_.data(), width_) >> 16;
        const std::int32_t floor = std::max(highest - static_cast<std::int32_t>(REACH), 0);
        if (find_bins(bins_.data(), keys_.data(), floor, width_) > width_ / CROWDED) return false;
        const std::uint16_t *front = bins_.data(), *back = front + half_;
        std::int32_t *front_ranks = ranks_.data(), *back_ranks = front_ranks + half_;
        std::fill(first_, first_ + BINS, Count{0});
        std::fill(second_, second_ + BINS, Count{0});
        for (std::int64_t j = 0; j < half_; j++) {  // side by side: neighbours often fall into one bin and would wait
            first_[front[j]]++;
            second_[back[j]]++;
        }
        if (width_ % 2) second_[back[half_]]++;
        const std::int64_t mixed = find_mixed();
        to_starts(first_, second_);
        if (width_ % 2) back_ranks[half_] = second_[back[half_]]++;
        for (std::int64_t j = half_; j-- > 0;) {
            back_ranks[j] = second_[back[j]]++;
            front_ranks[j] = first_[front[j]]++;
        }
        std::sort(mixed_.begin(), mixed_.begin() + mixed);
        for (std::int64_t i = mixed; i-- > 0;) {  // the first half's places now stand at the ends of the bins
            const std::int64_t j = width_ - 1 - static_cast<std::int64_t>(mixed_[i] & 0xffffffff);
            ranks_[j] = --first_[bins_[j]];
        }
        return true;
    }

    // Collect the elements of odd bins that are not alone there, each as its pattern above its index from the end.
    std::int64_t find_mixed() {
        constexpr std::uint64_t odd = 0x0001000100010001u * STRIPES;
        std::int64_t found = 0;
        for (std::int64_t first = 0; first < width_; first += 4) {
            std::uint64_t four;
            std::memcpy(&four, bins_.data() + first, sizeof four);
            if ((four & odd) == 0) continue;
            for (std::int64_t j = first; j < std::min(first + 4, width_); j++) {
                if ((bins_[j] & STRIPES) == 0) continue;
                const int here = first_[bins_[j]] + second_[bins_[j]];
                mixed_[found] = static_cast<std::uint64_t>(keys_[j]) << 32 | static_cast<std::uint64_t>(width_ - 1 - j);
                found += here > 1;
            }
        }
        return found;
    }

    std::int64_t width_, half_;
    std::vector<std::int32_t> keys_, ranks_;
    std::vector<std::uint16_t> bins_;  // and 4 more, which are read and not used
    std::vector<std::uint64_t> mixed_;
    RadixOrder sorted_;
    alignas(64) Count first_[BINS], second_[BINS];
};

}  // namespace

void rank_chances(
    const Array& out, const Array& x, const OptionalArray& base, std::int64_t width, float low, float high) {
    check_sizes(x.size, OptionalArray(out));
    check_sizes(out.size, base);
    if (width < 1 || out.size % width) throw std::invalid_argument("the elements are not whole rows");
    float* chances = out.float32();
    if (width == 1) {
        std::fill(chances, chances + out.size, (low + high) / 2.f);
        return;
    }
    const float step = (high - low) / static_cast<float>(width - 1);
    Ranks ranks(width);
    alignas(64) float x_scratch[BLOCK];
    alignas(64) float base_scratch[BLOCK] = {};
    for (std::int64_t start = 0; start < out.size; start += width) {
        for (std::int64_t first = 0; first < width; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, width - first);
            const float* origin = read_or_zeros(base, start + first, count, base_scratch);
            block_magnitudes(ranks.keys() + first, x.read(start + first, count, x_scratch), origin, count);
        }
        write_chances(chances + start, ranks.find(), low, step, width);
    }
}

}  // namespace graftwork
