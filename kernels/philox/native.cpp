// The CPU twin of philox.
#include "philox.h"

#include <algorithm>

#include "../native.h"

namespace graftwork {

void philox(const Array& out, std::uint64_t key, std::int64_t offset) {
    std::int32_t* to = out.int32();
    Words scratch;
    for (std::int64_t first = 0; first < out.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, out.size - first);
        const std::uint32_t* words = philox_words(scratch, key, offset + first, count);
        std::copy(words, words + count, to + first);
    }
}

}  // namespace graftwork
