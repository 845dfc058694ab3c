// The CPU twin of magnitudes_between: one pass for all brackets, vectorised but for the few elements that are kept.
#include "../magnitude.h"
#include "../native.h"
#include "../vectors.h"

namespace graftwork {
namespace {

struct Found {
    std::int32_t above = 0, equal_to_high = 0, between = 0, equal_to_low = 0;
};

// What one bracket is looked for in, and what was found there.
struct Bracket {
    std::int32_t low, high;
    std::int32_t* values;
    std::int64_t room, kept = 0;
    std::int64_t* totals;

    void add(const Found& found) {
        totals[0] += found.above;
        totals[1] += found.equal_to_high;
        totals[2] += found.between;
        totals[3] += low < high ? found.equal_to_low : 0;
    }
};

// Count a block, and mark with 1 what is between.
LEAF Found mark(
    std::uint8_t* RESTRICT marks,
    const std::int32_t* RESTRICT bits,
    std::int32_t low,
    std::int32_t high,
    std::int64_t count) {
    std::int32_t above = 0, equal_to_high = 0, between = 0, equal_to_low = 0;
    for (std::int64_t j = 0; j < count; j++) {
        const std::int32_t element = bits[j];
        const bool inside = (element > low) & (element < high);
        above += element > high;
        equal_to_high += element == high;
        equal_to_low += element == low;
        between += inside;
        marks[j] = inside;
    }
    return {above, equal_to_high, between, equal_to_low};
}

// Append the marked elements of a block, as long as there is room.
void keep(Bracket& bracket, const std::int32_t* bits, const std::uint8_t* marks) {
    for (std::int64_t j = 0; j < BLOCK; j += 8) {
        std::uint64_t eight;
        std::memcpy(&eight, marks + j, sizeof eight);
        if (eight == 0) continue;
        for (std::int64_t k = j; k < j + 8; k++)
            if (marks[k] && bracket.kept < bracket.room) bracket.values[bracket.kept++] = bits[k];
    }
}

void scan(std::vector<Bracket>& brackets, const Array& x, const OptionalArray& base) {
    alignas(64) std::uint8_t marks[BLOCK];
    for_each_magnitude_block(x, base, [&](std::int32_t* bits, std::int64_t, std::int64_t count) {
        for (Bracket& bracket : brackets) {
            const Found found = mark(marks, bits, bracket.low, bracket.high, count);
            bracket.add(found);
            if (found.between > 0 && bracket.kept < bracket.room) {
                std::fill(marks + count, marks + BLOCK, 0);
                keep(bracket, bits, marks);
            }
        }
        return true;
    });
}

#ifdef GRAFTWORK_AVX512
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

constexpr std::int64_t NEAR = 4096;  // elements that stay in the first-level cache for the next bracket

// Counts of 16 elements side by side; what is between is few, and kept.
struct Scan {
    Bracket& bracket;
    const __m512i low = _mm512_set1_epi32(bracket.low), high = _mm512_set1_epi32(bracket.high);
    const __m512i first = _mm512_set1_epi32(bracket.low + 1);
    const __m512i width = _mm512_set1_epi32(std::max(bracket.high - bracket.low - 1, 0)), one = _mm512_set1_epi32(1);
    __m512i above = _mm512_setzero_si512(), equal_to_high = above, equal_to_low = above;
    std::int32_t between = 0;

    void add(__m512i bits, __mmask16 there) {
        above = _mm512_mask_add_epi32(above, _mm512_mask_cmpgt_epi32_mask(there, bits, high), above, one);
        equal_to_high =
            _mm512_mask_add_epi32(equal_to_high, _mm512_mask_cmpeq_epi32_mask(there, bits, high), equal_to_high, one);
        equal_to_low =
            _mm512_mask_add_epi32(equal_to_low, _mm512_mask_cmpeq_epi32_mask(there, bits, low), equal_to_low, one);
        const __mmask16 inside = _mm512_mask_cmplt_epu32_mask(there, _mm512_sub_epi32(bits, first), width);
        if (inside) keep(bits, inside);
    }

    void keep(__m512i bits, __mmask16 inside) {
        const std::int32_t count = __builtin_popcount(inside);
        const std::int64_t fit = std::min<std::int64_t>(count, bracket.room - bracket.kept);
        const __m512i together = _mm512_maskz_compress_epi32(inside, bits);
        _mm512_mask_storeu_epi32(bracket.values + bracket.kept, columns_left(fit), together);
        bracket.kept += fit;
        between += count;
    }

    Found found() const {
        return {
            _mm512_reduce_add_epi32(above),
            _mm512_reduce_add_epi32(equal_to_high),
            between,
            _mm512_reduce_add_epi32(equal_to_low)};
    }
};

template <typename Kind>
__m512i magnitudes(const typename Kind::Element* x, const typename Kind::Element* base, __mmask16 there) {
    const __m512 origin = base ? Kind::load(base, there) : _mm512_setzero_ps();
    const __m512 difference = _mm512_sub_ps(Kind::load(x, there), origin);
    return _mm512_and_epi32(_mm512_castps_si512(difference), _mm512_set1_epi32(0x7fffffff));
}

template <typename Kind>
Found scan_near(
    Bracket& bracket, const typename Kind::Element* x, const typename Kind::Element* base, std::int64_t count) {
    Scan scan{bracket};
    std::int64_t j = 0;
    for (; j + LANE <= count; j += LANE) scan.add(magnitudes<Kind>(x + j, base ? base + j : nullptr, 0xffff), 0xffff);
    if (j < count) {
        const __mmask16 there = columns_left(count - j);
        scan.add(magnitudes<Kind>(x + j, base ? base + j : nullptr, there), there);
    }
    return scan.found();
}

template <typename Kind>
void scan_all(std::vector<Bracket>& brackets, const Array& x, const OptionalArray& base) {
    using Element = typename Kind::Element;
    const Element* from = reinterpret_cast<const Element*>(x.data);
    const Element* origin = base ? reinterpret_cast<const Element*>(base->data) : nullptr;
    for (std::int64_t first = 0; first < x.size; first += NEAR)
        for (Bracket& bracket : brackets)
            bracket.add(
                scan_near<Kind>(bracket, from + first, origin ? origin + first : nullptr, std::min(NEAR, x.size - first)));
}

#pragma GCC pop_options
#endif

}  // namespace

void magnitudes_between(
    const Array& counts,
    const Array& values,
    const Array& x,
    const OptionalArray& base,
    const std::vector<std::int32_t>& lows,
    const std::vector<std::int32_t>& highs) {
    const std::size_t count = lows.size();
    check_counts(count, {highs.size(), static_cast<std::size_t>(counts.size / 4)});
    if (counts.size % 4 || count == 0) throw std::invalid_argument("the counts have another number of items");
    const std::int64_t room = values.size / static_cast<std::int64_t>(count);
    std::int64_t* totals = counts.int64();
    std::fill(totals, totals + counts.size, 0);
    check_sizes(x.size, base);
    std::vector<Bracket> brackets;
    for (std::size_t i = 0; i < count; i++)
        brackets.push_back({lows[i], highs[i], values.int32() + static_cast<std::int64_t>(i) * room, room, 0, totals + 4 * i});
#ifdef GRAFTWORK_AVX512
    if (has_avx512_bf16() && (!base || base->dtype == x.dtype)) {
        if (x.dtype == Dtype::BF16) return scan_all<BFloats>(brackets, x, base);
        if (x.dtype == Dtype::F32) return scan_all<Floats>(brackets, x, base);
    }
#endif
    scan(brackets, x, base);
}

}  // namespace graftwork
