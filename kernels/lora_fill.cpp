// Factors into rank rows, in tiles that stay in the first-level cache: a transposed matrix is read line by line.
#include <optional>

#include "native.h"

namespace graftwork {
namespace {

constexpr std::int64_t COLUMNS = 64;  // of a tile of a transposed matrix

LEAF void transpose_scaled(
    float* RESTRICT to, const float* RESTRICT from, std::int64_t columns, std::int64_t rank, float scale) {
    for (std::int64_t r = 0; r < rank; r++)
        for (std::int64_t j = 0; j < columns; j++) to[r * COLUMNS + j] = from[j * rank + r] * scale;
}

void copy(const Array& rows, const Array& values) {
    Block scratch;
    for (std::int64_t first = 0; first < rows.size; first += BLOCK) {
        const std::int64_t count = std::min(BLOCK, rows.size - first);
        rows.write(first, count, values.read(first, count, scratch.values));
    }
}

void copy_transposed(const Array& rows, const Array& values, float scale) {
    const std::int64_t rank = rows.shape[0], width = rows.shape[1];
    static thread_local std::vector<float> lines, columns;
    lines.resize(static_cast<std::size_t>(COLUMNS * rank));
    columns.resize(lines.size());
    for (std::int64_t column = 0; column < width; column += COLUMNS) {
        const std::int64_t count = std::min(COLUMNS, width - column);
        const float* from = lines.data();
        if (values.dtype == Dtype::F32)
            from = values.float32() + column * rank;
        else
            for (std::int64_t first = 0; first < count * rank; first += BLOCK)
                values.read(column * rank + first, std::min(BLOCK, count * rank - first), lines.data() + first);
        transpose_scaled(columns.data(), from, count, rank, scale);
        for (std::int64_t r = 0; r < rank; r++) rows.write(r * width + column, count, columns.data() + r * COLUMNS);
    }
}

}  // namespace

std::optional<std::size_t> lora_fill(
    const std::vector<Array>& rows,
    std::uintptr_t content,
    const std::vector<std::pair<std::int64_t, std::string>>& places,
    const std::vector<std::optional<float>>& scales) {
    check_counts(rows.size(), {places.size(), scales.size()});
    for (std::size_t i = 0; i < rows.size(); i++) {
        const Array values(content + static_cast<std::uintptr_t>(places[i].first), places[i].second, rows[i].shape);
        if (scales[i])
            copy_transposed(rows[i], values, *scales[i]);
        else
            copy(rows[i], values);
        if (!all_finite(rows[i])) return i;
    }
    return std::nullopt;
}

}  // namespace graftwork
