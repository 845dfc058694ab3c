// The CPU twin of magnitudes_between: one pass for all brackets, vectorised but for the few elements that are kept.
#include "../magnitude.h"
#include "../native.h"

namespace graftwork {
namespace {

struct Found {
    std::int32_t above = 0, equal_to_high = 0, between = 0, equal_to_low = 0;
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

// Append the marked elements to `values`, as long as there is room; returns how many there are then.
std::int64_t keep(
    std::int32_t* values, std::int64_t kept, std::int64_t room, const std::int32_t* bits, const std::uint8_t* marks) {
    for (std::int64_t j = 0; j < BLOCK; j += 8) {
        std::uint64_t eight;
        std::memcpy(&eight, marks + j, sizeof eight);
        if (eight == 0) continue;
        for (std::int64_t k = j; k < j + 8; k++)
            if (marks[k] && kept < room) values[kept++] = bits[k];
    }
    return kept;
}

}  // namespace

void magnitudes_between(
    const Array& counts,
    const Array& values,
    const Array& x,
    const OptionalArray& base,
    const std::vector<std::int32_t>& lows,
    const std::vector<std::int32_t>& highs) {
    const std::size_t brackets = lows.size();
    check_counts(brackets, {highs.size(), static_cast<std::size_t>(counts.size / 4)});
    if (counts.size % 4 || brackets == 0) throw std::invalid_argument("the counts have another number of items");
    const std::int64_t room = values.size / static_cast<std::int64_t>(brackets);
    std::int64_t* totals = counts.int64();
    std::fill(totals, totals + counts.size, 0);
    std::vector<std::int64_t> kept(brackets);
    alignas(64) std::uint8_t marks[BLOCK];
    for_each_magnitude_block(x, base, [&](std::int32_t* bits, std::int64_t, std::int64_t count) {
        for (std::size_t i = 0; i < brackets; i++) {
            const Found found = mark(marks, bits, lows[i], highs[i], count);
            std::int64_t* total = totals + 4 * i;
            total[0] += found.above;
            total[1] += found.equal_to_high;
            total[2] += found.between;
            total[3] += lows[i] < highs[i] ? found.equal_to_low : 0;
            if (found.between > 0 && kept[i] < room) {
                std::fill(marks + count, marks + BLOCK, 0);
                kept[i] = keep(values.int32() + static_cast<std::int64_t>(i) * room, kept[i], room, bits, marks);
            }
        }
        return true;
    });
}

}  // namespace graftwork
