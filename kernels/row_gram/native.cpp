// The CPU twin of row_gram.
#include "../gram/products.h"
#include "../native.h"

namespace graftwork {

void row_gram(
    const Array& out,
    const std::vector<Array>& inputs,
    std::int64_t columns,
    std::int64_t offset,
    const OptionalArray& base) {
    const std::int64_t n = static_cast<std::int64_t>(inputs.size());
    const std::int64_t size = inputs.at(0).size;
    check_sizes(size, inputs);
    check_sizes(size, base);
    if (columns < 1) throw std::invalid_argument("rows have no columns");
    Products products(inputs, base);
    double* next = out.float64();
    const double* end = next + out.size;
    for (std::int64_t start = 0; start < size; next += n * n) {
        if (next + n * n > end) throw std::invalid_argument("the output has another size");
        const std::int64_t position = offset + start;
        const std::int64_t row_end = (position / columns + 1) * columns;
        const std::int64_t block_end = (position / SUM_BLOCK + 1) * SUM_BLOCK;
        const std::int64_t stop = std::min({row_end, block_end, offset + size}) - offset;
        products.write(next, start, stop);
        start = stop;
    }
    if (next != end) throw std::invalid_argument("the output has another size");
}

}  // namespace graftwork
