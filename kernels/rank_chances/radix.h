// A radix sort of patterns over the bits in which they differ.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace graftwork {

// The places of a row's elements in its ascending order, equals in reverse index order, in time linear in the row.
class RadixOrder {
   public:
    // Sort the row of `width` keys and call `place(rank, index)` for each element.
    template <typename Place>
    void sort(const std::int32_t* keys, std::int64_t width, Place place) {
        from_.resize(width);
        to_.resize(width);
        std::int32_t all = 0, common = 0x7fffffff;
        for (std::int64_t j = 0; j < width; j++) all |= keys[j], common &= keys[j];
        const std::uint32_t differing = static_cast<std::uint32_t>(all & ~common);
        const int low = differing ? __builtin_ctz(differing) : 0;
        const int bits = differing ? 32 - __builtin_clz(differing) - low : 0;
        const int widest = width >= 2048 ? 11 : 8;  // bits of a digit: tables small against the row
        const int passes = std::max(1, (bits + widest - 1) / widest);
        const int digit = std::max(1, (bits + passes - 1) / passes);
        const std::uint32_t mask = (1u << digit) - 1;
        counts_.assign(static_cast<std::size_t>(passes) << digit, 0);
        for (std::int64_t j = 0; j < width; j++)
            for (int pass = 0; pass < passes; pass++)
                counts_[(pass << digit) + (static_cast<std::uint32_t>(keys[j]) >> (low + pass * digit) & mask)]++;
        for (int pass = 0; pass < passes; pass++) {
            std::uint32_t* count = counts_.data() + (pass << digit);
            std::uint32_t before = 0;
            for (std::uint32_t bin = 0; bin <= mask; bin++) {
                const std::uint32_t here = count[bin];
                count[bin] = before;
                before += here;
            }
            const int shift = low + pass * digit;
            const auto each = [&](std::uint32_t key, std::uint32_t index) {
                const std::uint32_t at = count[key >> shift & mask]++;
                if (pass == passes - 1)
                    place(at, index);
                else
                    to_[at] = std::uint64_t{key} << 32 | index;
            };
            if (pass == 0)
                for (std::int64_t j = width; j-- > 0;) each(keys[j], static_cast<std::uint32_t>(j));
            else
                for (const std::uint64_t pair : from_) each(pair >> 32, static_cast<std::uint32_t>(pair));
            std::swap(from_, to_);
        }
    }

   private:
    std::vector<std::uint64_t> from_, to_;
    std::vector<std::uint32_t> counts_;
};

}  // namespace graftwork
