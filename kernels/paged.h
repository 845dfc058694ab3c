// Packed rows of sequences whose keys and values lie in pages.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "array.h"

namespace graftwork {

struct Sequence {
    const std::int32_t* pages;  // in order
    std::int64_t row, count;    // its packed rows: the last `count` of its positions
    std::int64_t length;        // its positions

    std::int64_t start() const { return length - count; }
    std::int64_t work() const { return count * length; }
};

// The sequences behind `rows` packed rows: see kernels/paged_attention/__init__.py for pages [sequences, most] and spans
// [sequences, 2]. Throws std::out_of_range for positions and pages that do not exist (there are `total` of `page` tokens).
inline std::vector<Sequence> sequences_of(
    const Array& pages, const Array& spans, std::int64_t rows, std::int64_t total, std::int64_t page) {
    const std::int64_t count = pages.shape.at(0), most = pages.shape.at(1);
    check_sizes(2 * count, std::vector<Array>{spans});
    const std::int32_t *table = pages.int32(), *span = spans.int32();
    std::vector<Sequence> sequences;
    sequences.reserve(static_cast<std::size_t>(count));
    std::int64_t row = 0;
    for (std::int64_t s = 0; s < count; s++, row += sequences.back().count) {
        const Sequence found{table + s * most, row, span[2 * s], span[2 * s + 1]};
        if (found.count < 1 || found.length < found.count || found.length > most * page)
            throw std::out_of_range("sequence " + std::to_string(s) + " has no such length");
        for (std::int64_t p = 0; p * page < found.length; p++)
            if (found.pages[p] < 0 || found.pages[p] >= total)
                throw std::out_of_range("sequence " + std::to_string(s) + " has a page that does not exist");
        sequences.push_back(found);
    }
    if (row != rows) throw std::out_of_range("the sequences have other rows than are given");
    return sequences;
}

}  // namespace graftwork
