// Keep probabilities by rank, a row at a time: one visit to a table of bins for each element and one look into it,
// where 16 bits nearly tell all magnitudes of a row apart; else a radix sort.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "../magnitude.h"
#include "radix.h"

namespace graftwork {

using Count = std::uint16_t;

constexpr int STRIPES = 32;  // stretches of the table that are added up side by side
constexpr int LINES = 64;  // bins of a stripe
constexpr int BINS = LINES * STRIPES;  // for so many codes, from the row's largest down
constexpr std::int64_t WIDEST = 0xffff;  // what 16 bits can count
constexpr std::int64_t CROWDED = 8;  // one element in so many with an odd code: sorting is faster
constexpr std::int64_t GROUP = 16;  // elements that are searched for odd codes at one time

// Counts by bin, or the ranks at which they begin, of each half of a row: side by side, because neighbours often fall
// into one bin and would wait for each other. A line between them, because processors take addresses that are 4096
// bytes apart for one: so a bin is told from its twin by an odd bin, and those are rare.
struct Tables {
    alignas(64) Count front[BINS];
    Count between[STRIPES];
    alignas(64) Count back[BINS];
};

using Stripes = Count[STRIPES];

// An even code is of equals: those whose pattern has no more than its high 16 bits, as nearly all differences of
// bfloat16 have. The odd code above it is of what lies between that pattern and the next.
LEAF void find_codes(std::uint16_t* RESTRICT codes, const std::int32_t* RESTRICT bits, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++)
        codes[j] = static_cast<std::uint16_t>((bits[j] >> 16) * 2 + ((bits[j] & 0xffff) != 0));
}

LEAF std::uint16_t largest_of(const std::uint16_t* codes, std::int64_t count) {
    std::uint16_t largest = 0;
    for (std::int64_t j = 0; j < count; j++) largest = codes[j] > largest ? codes[j] : largest;
    return largest;
}

// Turn codes into places of bins. A bin is how far a code is above the even `floor`, 0 for zeros and 1 for all that is
// too small; bin b is number b / LINES of line b % LINES, so that odd bins are on odd lines. Returns how many elements
// are in odd bins.
LEAF std::uint16_t find_bins(std::uint16_t* codes, std::uint16_t floor, std::int64_t count) {
    std::uint16_t odd = 0;
    for (std::int64_t j = 0; j < count; j++) {
        const std::uint16_t code = codes[j];
        const std::uint16_t small = code != 0;
        const std::uint16_t bin = code > floor ? code - floor : small;
        odd += bin & 1;
        codes[j] = static_cast<std::uint16_t>(bin % LINES * STRIPES + bin / LINES);
    }
    return odd;
}

// Count the elements of every stripe. Returns whether an odd bin holds more than one.
LEAF bool add_up(Stripes& sums, const Tables& counts) {
    alignas(64) Stripes all = {}, odd = {};
    for (int line = 0; line < BINS; line += 2 * STRIPES)
        for (int place = line; place < line + STRIPES; place++) {
            const Count above = counts.front[place + STRIPES] + counts.back[place + STRIPES];
            all[place - line] += counts.front[place] + counts.back[place] + above;
            odd[place - line] |= above;
        }
    Count together = 0;
    for (int stripe = 0; stripe < STRIPES; stripe++) {
        sums[stripe] = all[stripe];
        together |= odd[stripe];
    }
    return together > 1;
}

// Write the ranks at which each half's elements of a bin begin, the back half's first: of equals the lowest index ranks
// highest. `first` are those of the stripes; the counts become zeros.
LEAF void find_starts(Tables& RESTRICT starts, Tables& RESTRICT counts, const Stripes& first) {
    alignas(64) Stripes next;
    for (int stripe = 0; stripe < STRIPES; stripe++) next[stripe] = first[stripe];
    for (int line = 0; line < BINS; line += STRIPES)
        for (int stripe = 0; stripe < STRIPES; stripe++) {
            const int place = line + stripe;
            starts.back[place] = next[stripe];
            starts.front[place] = next[stripe] + counts.back[place];
            next[stripe] += counts.back[place] + counts.front[place];
            counts.back[place] = counts.front[place] = 0;
        }
}

// An element's rank is the start of its bin and how many of its half come after it there. By vectors, because compilers
// store what they look up one by one, and then wait for it.
LEAF void find_chances(
    float* RESTRICT chances,
    const std::uint16_t* RESTRICT bins,
    const Count* RESTRICT after,
    const Count* RESTRICT starts,
    float low,
    float step,
    std::int64_t count) {
    using Eight = Count __attribute__((vector_size(16)));
    using Ranks = std::int32_t __attribute__((vector_size(32)));
    using Chances = float __attribute__((vector_size(32)));
    const auto begin = [&](std::int64_t j) { return starts[bins[j]]; };
    std::int64_t j = 0;
    for (; j + 8 <= count; j += 8) {
        Eight ranks;
        std::memcpy(&ranks, after + j, sizeof ranks);
        ranks += Eight{begin(j), begin(j + 1), begin(j + 2), begin(j + 3),
                       begin(j + 4), begin(j + 5), begin(j + 6), begin(j + 7)};
        const Chances eight = low + step * __builtin_convertvector(__builtin_convertvector(ranks, Ranks), Chances);
        std::memcpy(chances + j, &eight, sizeof eight);
    }
    for (; j < count; j++) chances[j] = low + step * static_cast<float>(begin(j) + after[j]);
}

// The elements from `first` on of x - base.
struct Row {
    const Array& x;
    const OptionalArray& base;
    std::int64_t first, width;

    // Write the patterns of the magnitudes of `count <= BLOCK` elements from `at` on.
    void magnitudes(std::int32_t* bits, std::int64_t at, std::int64_t count) const {
        read_magnitudes(bits, x, base, first + at, count);
    }
};

// Finds the chances of a row's elements, from `low` to `high`, by the ranks of their magnitudes.
class Ranking {
   public:
    void operator()(float* chances, const Row& row, float low, float high) {
        if (row.width == 1) {
            *chances = (low + high) / 2.f;
            return;
        }
        const float step = (high - low) / static_cast<float>(row.width - 1);
        if (row.width > WIDEST || !count(row, chances, low, step)) sort(row, chances, low, step);
    }

   private:
    static float chance(std::uint32_t rank, float low, float step) {
        return low + step * static_cast<float>(static_cast<std::int32_t>(rank));
    }

    void sort(const Row& row, float* chances, float low, float step) {
        bits_.resize(row.width);
        for (std::int64_t at = 0; at < row.width; at += BLOCK)
            row.magnitudes(bits_.data() + at, at, std::min(BLOCK, row.width - at));
        radix_.sort(bits_.data(), row.width, [&](std::uint32_t rank, std::uint32_t index) {
            chances[index] = chance(rank, low, step);
        });
    }

    // Returns whether few enough elements are in odd bins; else nothing is written.
    bool count(const Row& row, float* chances, float low, float step) {
        const std::int64_t half = row.width / 2;
        bins_.resize(row.width + GROUP);
        after_.resize(row.width);
        alignas(64) std::int32_t bits[BLOCK];
        for (std::int64_t at = 0; at < row.width; at += BLOCK) {
            const std::int64_t size = std::min(BLOCK, row.width - at);
            row.magnitudes(bits, at, size);
            find_codes(bins_.data() + at, bits, size);
        }
        const int largest = largest_of(bins_.data(), row.width) | 1;
        const int floor = std::max(largest + 1 - BINS, 0);
        if (find_bins(bins_.data(), static_cast<std::uint16_t>(floor), row.width) > row.width / CROWDED) return false;
        const std::uint16_t *front = bins_.data(), *back = front + half;
        Count *front_after = after_.data(), *back_after = front_after + half;
        if (row.width % 2) back_after[half] = counts_.back[back[half]]++;
        for (std::int64_t j = half; j-- > 0;) {
            back_after[j] = counts_.back[back[j]]++;
            front_after[j] = counts_.front[front[j]]++;
        }
        Stripes first;
        mixed_.clear();
        if (add_up(first, counts_)) find_mixed(row);
        std::exclusive_scan(first, first + STRIPES, first, Count{0});
        find_starts(starts_, counts_, first);
        find_chances(chances, front, front_after, starts_.front, low, step, half);
        find_chances(chances + half, back, back_after, starts_.back, low, step, row.width - half);
        rank_mixed(chances, row.width, low, step);
        return true;
    }

    // Collect the elements of odd bins that are not alone there. They are few and anywhere: what asks whether there is
    // one collects without a branch, which would be foretold wrongly for each of them.
    void find_mixed(const Row& row) {
        constexpr int odd = __builtin_ctz(STRIPES);  // the bit of a place that tells
        std::fill_n(bins_.begin() + row.width, GROUP, std::uint16_t{0});
        groups_.resize(row.width / GROUP + 1);
        mixed_.resize(row.width / CROWDED + 1);
        std::size_t groups = 0, mixed = 0;
        for (std::int64_t first = 0; first < row.width; first += GROUP) {
            std::uint64_t four[4], found = 0;
            std::memcpy(four, bins_.data() + first, sizeof four);
            for (int i = 0; i < 4; i++) found |= (four[i] & (0x0001000100010001u << odd)) >> i;
            groups_[groups] = {first, found};
            groups += found != 0;
        }
        for (std::size_t group = 0; group < groups; group++)
            for (auto [first, found] = groups_[group]; found != 0; found &= found - 1) {
                const int bit = __builtin_ctzll(found);
                mixed_[mixed] = static_cast<std::uint64_t>(first + (odd - bit % 16) * 4 + bit / 16);
                mixed += counts_.front[bins_[mixed_[mixed]]] + counts_.back[bins_[mixed_[mixed]]] > 1;
            }
        mixed_.resize(mixed);
        for (std::uint64_t& each : mixed_) {  // from an index to what sorts
            std::int32_t bits;
            row.magnitudes(&bits, static_cast<std::int64_t>(each), 1);
            each = static_cast<std::uint64_t>(bits) << 32 | (static_cast<std::uint64_t>(row.width) - 1 - each);
        }
    }

    void rank_mixed(float* chances, std::int64_t width, float low, float step) {
        std::sort(mixed_.begin(), mixed_.end());
        std::int64_t bin = -1;
        std::uint32_t rank = 0;
        for (const std::uint64_t pair : mixed_) {
            const std::int64_t j = width - 1 - static_cast<std::int64_t>(pair & 0xffffffff);
            if (bins_[j] != bin) {
                bin = bins_[j];
                rank = starts_.back[bin];
            }
            chances[j] = chance(rank++, low, step);
        }
    }

    std::vector<std::uint16_t> bins_;
    std::vector<Count> after_;
    std::vector<std::pair<std::int64_t, std::uint64_t>> groups_;  // the first element, a bit for each odd bin
    std::vector<std::uint64_t> mixed_;  // patterns, each above its index from the end
    std::vector<std::int32_t> bits_;
    RadixOrder radix_;
    Tables counts_ = {}, starts_;
};

// The chances of rows one after another, for who goes over them in blocks.
class RankedRows {
   public:
    RankedRows(float low, float high, std::int64_t width)
        : low_(low), high_(high), width_(width), window_(width + BLOCK) {}

    // The chances of `count <= BLOCK` elements from `first` on, for which each call begins where the last one ended.
    const float* read(
        Ranking& ranking, const Array& x, const OptionalArray& base, std::int64_t first, std::int64_t count) {
        if (first + count > ranked_) {
            const auto left = window_.begin() + (first - window_first_);
            std::copy(left, left + (ranked_ - first), window_.begin());
            window_first_ = first;
            for (; ranked_ < first + count; ranked_ += width_)
                ranking(window_.data() + (ranked_ - first), {x, base, ranked_, width_}, low_, high_);
        }
        return window_.data() + (first - window_first_);
    }

   private:
    float low_, high_;
    std::int64_t width_;
    std::vector<float> window_;  // the chances of the elements from `window_first_` up to `ranked_`
    std::int64_t window_first_ = 0, ranked_ = 0;
};

}  // namespace graftwork
