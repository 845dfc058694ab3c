// The CPU twin of rank_chances: a radix sort of each row over the bits in which its magnitudes differ.
#include <algorithm>

#include "../magnitude.h"
#include "../native.h"

namespace graftwork {
namespace {

// The places of a row's elements in its ascending order, equals in reverse index order, in time linear in the row.
class RowOrder {
   public:
    explicit RowOrder(std::int64_t width) : width_(width), from_(width), to_(width), keys_(width) {}

    std::int32_t* keys() { return keys_.data(); }

    // Sort the row in `keys` and call `place(rank, index)` for each element.
    template <typename Place>
    void sort(Place place) {
        std::int32_t all = 0, common = 0x7fffffff;
        for (const std::int32_t key : keys_) all |= key, common &= key;
        const std::uint32_t differing = static_cast<std::uint32_t>(all & ~common);
        const int low = differing ? __builtin_ctz(differing) : 0;
        const int bits = differing ? 32 - __builtin_clz(differing) - low : 0;
        const int passes = std::max(1, (bits + widest() - 1) / widest());
        const int digit = std::max(1, (bits + passes - 1) / passes);
        const std::uint32_t mask = (1u << digit) - 1;
        counts_.assign(static_cast<std::size_t>(passes) << digit, 0);
        for (const std::int32_t key : keys_)
            for (int pass = 0; pass < passes; pass++)
                counts_[(pass << digit) + (static_cast<std::uint32_t>(key) >> (low + pass * digit) & mask)]++;
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
                for (std::int64_t j = width_; j-- > 0;) each(keys_[j], static_cast<std::uint32_t>(j));
            else
                for (const std::uint64_t pair : from_) each(pair >> 32, static_cast<std::uint32_t>(pair));
            std::swap(from_, to_);
        }
    }

   private:
    // Bits of a digit: tables small against the row.
    int widest() const { return width_ >= 2048 ? 11 : 8; }

    std::int64_t width_;
    std::vector<std::uint64_t> from_, to_;
    std::vector<std::int32_t> keys_;
    std::vector<std::uint32_t> counts_;
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
    RowOrder row(width);
    alignas(64) float x_scratch[BLOCK];
    alignas(64) float base_scratch[BLOCK] = {};
    for (std::int64_t start = 0; start < out.size; start += width) {
        for (std::int64_t first = 0; first < width; first += BLOCK) {
            const std::int64_t count = std::min(BLOCK, width - first);
            const float* origin = read_or_zeros(base, start + first, count, base_scratch);
            block_magnitudes(row.keys() + first, x.read(start + first, count, x_scratch), origin, count);
        }
        row.sort([&](std::uint32_t rank, std::uint32_t index) {
            chances[start + index] = low + step * static_cast<float>(static_cast<std::int32_t>(rank));
        });
    }
}

}  // namespace graftwork
