// The CPU twin of rank_chances.
#include "../native.h"
#include "ranking.h"

namespace graftwork {

void rank_chances(
    const Array& out, const Array& x, const OptionalArray& base, std::int64_t width, float low, float high) {
    check_sizes(x.size, OptionalArray(out));
    check_sizes(out.size, base);
    if (width < 1 || out.size % width) throw std::invalid_argument("the elements are not whole rows");
    float* chances = out.float32();
    Ranking ranking;
    for (std::int64_t first = 0; first < out.size; first += width)
        ranking(chances + first, {x, base, first, width}, low, high);
}

}  // namespace graftwork
