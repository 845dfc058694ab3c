// The CPU twin of lora_shrink: each row of the pool is read once for a run of tokens.
#include "../dots.h"
#include "../lora.h"

namespace graftwork {
namespace {

constexpr std::int64_t WIDTH = 32;  // sums kept side by side, which fixes the order of a dot product

LEAF float dot(const float* RESTRICT left, const float* RESTRICT right, std::int64_t count) {
    float sums[WIDTH] = {};
    std::int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH)
        for (std::int64_t l = 0; l < WIDTH; l++) sums[l] += left[i + l] * right[i + l];
    for (std::int64_t l = 0; i + l < count; l++) sums[l] += left[i + l] * right[i + l];
    for (std::int64_t half = WIDTH / 2; half > 0; half /= 2)
        for (std::int64_t l = 0; l < half; l++) sums[l] += sums[l + half];
    return sums[0];
}

// Any number of elements in float32: in place when they are, else converted into `scratch`.
const float* read_all(const Array& array, std::int64_t first, std::int64_t count, std::vector<float>& scratch) {
    if (array.dtype == Dtype::F32) return array.read(first, count, nullptr);
    scratch.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; i += BLOCK) array.read(first + i, std::min(BLOCK, count - i), &scratch[i]);
    return scratch.data();
}

}  // namespace

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
    std::int64_t stride) {
#ifdef GRAFTWORK_AVX512
    if (x.dtype == Dtype::BF16 && a.dtype == Dtype::BF16 && has_avx512_bf16())
        return dots_of_tile<BFloatDots>(
            reinterpret_cast<const std::uint16_t*>(x.data) + first * step, step, tokens,
            reinterpret_cast<const std::uint16_t*>(a.data) + row * width, rows, width, h, stride);
    if (x.dtype == Dtype::F32 && a.dtype == Dtype::F32 && has_avx512())
        return dots_of_tile<FloatDots>(
            reinterpret_cast<const float*>(x.data) + first * step, step, tokens,
            reinterpret_cast<const float*>(a.data) + row * width, rows, width, h, stride);
#endif
    static thread_local std::vector<float> row_scratch, token_scratch;
    const float* pool = read_all(a, row * width, rows * width, row_scratch);
    for (std::int64_t t = 0; t < tokens; t++) {
        const float* token = read_all(x, (first + t) * step, width, token_scratch);
        for (std::int64_t r = 0; r < rows; r++) h[t * stride + r] = dot(pool + r * width, token, width);
    }
}

void lora_shrink(
    const Array& h, const Array& x, const Array& a, const Array& start, const Array& rank, const Array& slot) {
    const std::int64_t width = x.shape.at(1), max_rank = h.shape.at(1);
    check_sizes(h.shape.at(0) * width, std::vector<Array>{x});
    check_sizes(h.shape.at(0), std::vector<Array>{slot});
    check_sizes(a.shape.at(0) * width, std::vector<Array>{a});
    check_sizes(start.size, std::vector<Array>{rank});
    const std::vector<Run> runs = runs_of(start, rank, slot, a.shape.at(0), max_rank);
    float* result = h.float32();
    std::fill(result, result + h.size, 0.f);
    std::vector<Tile> tiles;
    for (const Run& run : runs) tile(tiles, run, run.rank, TILE_RANKS, run.rank, 0);
    for_each_task(static_cast<std::int64_t>(tiles.size()), worth_threads(runs, width), [&](std::int64_t i) {
        const auto& [run, token, tokens, begin, count, part] = tiles[static_cast<std::size_t>(i)];
        float* into = result + (run->first + token) * max_rank + begin;
        shrink_tile(x, width, run->first + token, tokens, a, run->start + begin, count, width, into, max_rank);
    });
}

}  // namespace graftwork
