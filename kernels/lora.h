// What the parts of a batched LoRA share: runs of tokens of one adapter, and both halves of one run.
#pragma once

#include <algorithm>

#include "native.h"
#include "threads.h"

namespace graftwork {

struct Run {
    std::int64_t first;   // the first token
    std::int64_t tokens;  // how many follow each other with this slot
    std::int64_t start;   // the slot's first row in the pool
    std::int64_t rank;
};

// A part of a run: few tokens are many ranks or columns at a time (each pool row is read once, at the speed of memory),
// many tokens are tiles that stay in the second-level cache.
constexpr std::int64_t FEW_TOKENS = 4, TILE_TOKENS = 48, TILE_RANKS = 8, TILE_COLUMNS = 512,
                       MANY_COLUMNS = 2048;

struct Tile {
    const Run* run;
    std::int64_t token, tokens;  // of the run
    std::int64_t begin, count;   // ranks or columns
    std::size_t part;            // the caller's
};

// Cut a run into tiles over `extent` ranks or columns of which a tile of few tokens takes `few`.
inline void tile(
    std::vector<Tile>& tiles, const Run& run, std::int64_t extent, std::int64_t few, std::int64_t many, std::size_t part) {
    const std::int64_t height = run.tokens <= FEW_TOKENS ? run.tokens : TILE_TOKENS;
    const std::int64_t width = run.tokens <= FEW_TOKENS ? few : many;
    for (std::int64_t token = 0; token < run.tokens; token += height)
        for (std::int64_t begin = 0; begin < extent; begin += width)
            tiles.push_back(
                {&run, token, std::min(height, run.tokens - token), begin, std::min(width, extent - begin), part});
}

// The runs of tokens that have a slot with rows. Throws std::out_of_range for a slot or rows that do not exist.
inline std::vector<Run> runs_of(
    const Array& start, const Array& rank, const Array& slot, std::int64_t pool_rows, std::int64_t max_rank) {
    const std::int32_t *starts = start.int32(), *ranks = rank.int32(), *slots = slot.int32();
    std::vector<Run> runs;
    for (std::int64_t first = 0, next; first < slot.size; first = next) {
        const std::int64_t s = slots[first];
        for (next = first + 1; next < slot.size && slots[next] == s;) next++;
        if (s < 0) continue;
        if (s >= start.size) throw std::out_of_range("slot " + std::to_string(s) + " does not exist");
        if (ranks[s] < 0 || ranks[s] > max_rank || starts[s] < 0 || starts[s] + std::int64_t{ranks[s]} > pool_rows)
            throw std::out_of_range("the rows of slot " + std::to_string(s) + " do not exist");
        if (ranks[s] > 0) runs.push_back({first, next - first, starts[s], ranks[s]});
    }
    return runs;
}

// Whether a batch is worth waking other threads for: about ten microseconds of reading or of multiplying.
inline bool worth_threads(const std::vector<Run>& runs, std::int64_t width) {
    std::int64_t work = 0;
    for (const Run& run : runs) work += (run.tokens + 8) * run.rank * width;
    return work >= std::int64_t{1} << 21;
}

// h[t * stride + r] = a[row + r] . x[first + t], in float32, for t below `tokens` and r below `rows`; the tokens of x are
// `step` elements apart. The order of a sum depends on `width` alone.
void shrink_tile(
    const Array& x,
    std::int64_t step,
    std::int64_t first,
    std::int64_t tokens,
    const Array& a,
    std::int64_t row,
    std::int64_t rows,
    std::int64_t width,
    float* h,
    std::int64_t stride);

// y[at + t * y_stride + j] += sum over r of h[t * stride + r] * b[row + r, column + j], for t below `tokens`, r below
// `rank` and j below `count <= MANY_COLUMNS`. b has `width` columns. Sums in float32, in the order of r.
void expand_tile(
    const Array& y,
    std::int64_t at,
    std::int64_t y_stride,
    std::int64_t tokens,
    const float* h,
    std::int64_t stride,
    const Array& b,
    std::int64_t row,
    std::int64_t rank,
    std::int64_t width,
    std::int64_t column,
    std::int64_t count);

}  // namespace graftwork
