// The CPU twin of nth_equal: counts a block at a time, looks closer only at the block that holds the n-th.
#include "../magnitude.h"
#include "../native.h"

namespace graftwork {
namespace {

LEAF std::int32_t count_equal(const std::int32_t* bits, std::int32_t wanted, std::int64_t count) {
    std::int32_t found = 0;
    for (std::int64_t j = 0; j < count; j++) found += bits[j] == wanted;
    return found;
}

}  // namespace

std::int64_t nth_equal(const Array& x, const OptionalArray& base, std::int32_t wanted, std::int64_t n) {
    std::int64_t seen = 0;
    std::int64_t position = -1;
    for_each_magnitude_block(x, base, [&](std::int32_t* bits, std::int64_t first, std::int64_t count) {
        const std::int64_t found = count_equal(bits, wanted, count);
        if (seen + found <= n) {
            seen += found;
            return true;
        }
        for (std::int64_t j = 0; position < 0; j++)
            if (bits[j] == wanted && seen++ == n) position = first + j;
        return false;
    });
    return position >= 0 ? position : -1 - seen;
}

}  // namespace graftwork
