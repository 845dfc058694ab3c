// The CPU twin of paged_store: a page at a time, so that keys are turned while they are in the first-level cache.
#include "../native.h"
#include "../paged.h"
#include "../threads.h"

namespace graftwork {
namespace {

constexpr std::int64_t WORK = 4;  // multiplications that take as long as to move an element

// to[i * page + t] = from[t * stride + i]
template <typename Element>
void store_columns(
    Element* RESTRICT to, const Element* RESTRICT from, std::int64_t count, std::int64_t stride, std::int64_t width,
    std::int64_t page) {
    constexpr std::int64_t NEAR = 32;  // elements of a row that are read at a time
    for (std::int64_t i = 0; i < width; i += NEAR)
        for (std::int64_t t = 0; t < count; t++)
            for (std::int64_t j = i; j < std::min(width, i + NEAR); j++) to[j * page + t] = from[t * stride + j];
}

// Consecutive rows that go to one page.
struct Stretch {
    std::int64_t row, count, home, place;  // from this row, to this place of this page
};

std::vector<Stretch> stretches_of(const std::vector<Sequence>& sequences, std::int64_t page) {
    std::vector<Stretch> stretches;
    for (const Sequence& sequence : sequences)
        for (std::int64_t at = sequence.start(), next; at < sequence.length; at = next) {
            next = std::min(sequence.length, (at / page + 1) * page);
            const std::int64_t row = sequence.row + at - sequence.start();
            stretches.push_back({row, next - at, sequence.pages[at / page], at % page});
        }
    return stretches;
}

template <typename Element>
void store(
    const Array& keys, const Array& values, const Array& key, const Array& value,
    const std::vector<Stretch>& stretches) {
    const std::int64_t heads = keys.shape[1], width = keys.shape[2], page = keys.shape[3], value_width = values.shape[3];
    auto *to_keys = reinterpret_cast<Element*>(keys.data), *to_values = reinterpret_cast<Element*>(values.data);
    const auto *from_keys = reinterpret_cast<const Element*>(key.data),
               *from_values = reinterpret_cast<const Element*>(value.data);
    const auto size = static_cast<std::size_t>(value_width) * sizeof(Element);
    split(static_cast<std::int64_t>(stretches.size()), WORK * (key.size + value.size), [&](std::int64_t i, std::int64_t end) {
        for (; i < end; i++) {
            const Stretch& is = stretches[static_cast<std::size_t>(i)];
            for (std::int64_t head = 0; head < heads; head++) {
                const std::int64_t home = is.home * heads + head, from = is.row * heads + head;
                store_columns(
                    to_keys + home * width * page + is.place, from_keys + from * width, is.count, heads * width, width,
                    page);
                Element* to = to_values + (home * page + is.place) * value_width;
                for (std::int64_t t = 0; t < is.count; t++)
                    std::memcpy(to + t * value_width, from_values + (from + t * heads) * value_width, size);
            }
        }
    });
}

}  // namespace

void paged_store(
    const Array& keys, const Array& values, const Array& key, const Array& value, const Array& pages,
    const Array& spans) {
    const std::int64_t rows = key.shape.at(0), heads = keys.shape.at(1), page = keys.shape.at(3);
    check_sizes(rows * heads * keys.shape[2], std::vector<Array>{key});
    check_sizes(rows * heads * values.shape.at(3), std::vector<Array>{value});
    check_sizes(keys.shape[0] * heads * page * values.shape[3], std::vector<Array>{values});
    const auto run = keys.itemsize() == 2   ? store<std::uint16_t>
                     : keys.itemsize() == 4 ? store<std::uint32_t>
                                            : store<std::uint64_t>;
    run(keys, values, key, value, stretches_of(sequences_of(pages, spans, rows, keys.shape[0], page), page));
}

}  // namespace graftwork
