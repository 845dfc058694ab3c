// The CPU twin of gram.
#include "../native.h"
#include "products.h"

namespace graftwork {

void gram(const Array& out, const std::vector<Array>& inputs, const OptionalArray& base) {
    const std::int64_t n = static_cast<std::int64_t>(inputs.size());
    const std::int64_t size = inputs.at(0).size;
    check_sizes(size, inputs);
    check_sizes(size, base);
    const std::int64_t blocks = (size + SUM_BLOCK - 1) / SUM_BLOCK;
    if (out.size != blocks * n * n) throw std::invalid_argument("the output has another size");
    Products products(inputs, base);
    for (std::int64_t block = 0; block < blocks; block++)
        products.write(out.float64() + block * n * n, block * SUM_BLOCK, std::min(size, (block + 1) * SUM_BLOCK));
}

}  // namespace graftwork
