// Sums in float64 whose order is fixed: by lane, then over the lanes.
#pragma once

#include "array.h"

namespace graftwork {

constexpr std::int64_t LANES = 32;
constexpr std::int64_t SUM_BLOCK = 65536;  // elements of one partial sum; a multiple of BLOCK and of LANES

inline double add_lanes(const double* lanes) {
    double total = 0;
    for (std::int64_t l = 0; l < LANES; l++) total += lanes[l];
    return total;
}

}  // namespace graftwork
