// The CPU twin of paged_attention: keys and values are read once for all query heads that share them, and for many rows.
#include "../native.h"
#include "../paged.h"
#include "../threads.h"
#include "page.h"
#include "softmax.h"
#include "tile.h"

namespace graftwork {
namespace {

// Query heads of some rows, "lines", are worked on together: so many, and so few that their scores stay in the
// second-level cache.
constexpr std::int64_t MOST_LINES = 48, MOST_SCORES = 192 * 1024;

// Consecutive rows of one sequence.
struct Part {
    const Sequence* sequence;
    std::int64_t row, rows;   // of the sequence's new ones
    std::int64_t first, end;  // the positions that any of them sees
};

struct Call {
    const Array &out, &q, &keys, &values;
    float scale;
    std::int64_t window;
    std::int64_t query_heads = q.shape.at(1), heads = keys.shape.at(1), shared = query_heads / heads;
    std::int64_t width = q.shape.at(2), value_width = values.shape.at(3), page = keys.shape.at(3);

    // The first position that is seen by the row at `position`.
    std::int64_t first_seen(std::int64_t position) const {
        return window > 0 ? std::max<std::int64_t>(0, position + 1 - window) : 0;
    }
};

// Floats that a thread keeps for its next task.
class Buffer {
public:
    float* of(std::int64_t size) {
        const auto needed = static_cast<std::size_t>(size / BLOCK + 1);
        if (blocks.size() < needed) blocks.resize(needed);
        return blocks.data()->values;
    }

private:
    std::vector<Block> blocks;
};

// The blocks of pages lie far apart, so no hardware fetches the next one in time.
void fetch(const Array& array, std::int64_t first, std::int64_t count) {
#ifdef __GNUC__
    const char *begin = array.data + first * array.itemsize(), *end = begin + count * array.itemsize();
    for (const char* line = begin; line < end; line += 64) __builtin_prefetch(line);
#endif
}

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

// A part's rows and the query heads of them that share key head `head`: page by page, or, where a sequence has more than
// one row, by tiles.
class Attention {
public:
    Attention(const Call& call, const Part& part, std::int64_t head)
        : is(call), part(part), head(head), tiled(part.sequence->count > 1 && are_fast(call.keys)),
          origin(part.first / is.page * is.page), columns(round_up(part.end - origin, tiled ? TILE : is.page)),
          lines(part.rows * is.shared), all_lines(tiled ? round_up(lines, LINES) : lines),
          stride(tiled ? round_up(is.value_width, WIDTH) : is.value_width) {
        static thread_local Buffer buffers[5];
        query = buffers[0].of(all_lines * is.width);
        scores = buffers[1].of(all_lines * columns);
        sums = buffers[2].of(all_lines * stride);
        totals = buffers[3].of(all_lines);
        block = buffers[4].of((tiled ? TILE : is.page) * std::max(is.width, stride));
    }

    void run() {
        read_query();
        if (tiled)
            score_tiles();
        else
            score_pages();
        for (std::int64_t r = 0; r < part.rows; r++) {
            const std::int64_t begin = first(r) - origin, end = last(r) - origin;
            for (std::int64_t g = 0; g < is.shared; g++) {
                float* line = scores + (r * is.shared + g) * columns;
                soften(line + begin, end - begin);
                if (tiled) clear_unseen(r * is.shared + g, begin, end);
            }
        }
        std::fill(sums, sums + all_lines * stride, 0.f);
        std::fill(totals, totals + all_lines, 0.f);
        if (tiled)
            sum_tiles();
        else
            sum_pages();
        write();
    }

private:
    // The positions that row r sees begin and end here.
    std::int64_t first(std::int64_t r) const { return is.first_seen(last(r) - 1); }
    std::int64_t last(std::int64_t r) const { return part.sequence->start() + part.row + r + 1; }

    std::int64_t home(std::int64_t position) const { return part.sequence->pages[position / is.page] * is.heads + head; }

    // Where row r's first query head lies among all.
    std::int64_t place(std::int64_t r) const {
        return (part.sequence->row + part.row + r) * is.query_heads + head * is.shared;
    }

    // Give a line weights of 0 where its group sees and it does not: its columns `begin..end` it does.
    void clear_unseen(std::int64_t line, std::int64_t begin, std::int64_t end) {
        float* weights = scores + line * columns;
        const std::int64_t group = line / LINES * LINES, last_of_group = (std::min(group + LINES, lines) - 1) / is.shared;
        std::fill(weights + first(group / is.shared) - origin, weights + begin, 0.f);
        std::fill(weights + end, weights + last(last_of_group) - origin, 0.f);
    }

    void read_query() {
        const std::int64_t size = is.shared * is.width;
        for (std::int64_t r = 0; r < part.rows; r++) {
            float* to = query + r * size;
            const float* given = read_all(is.q, place(r) * is.width, size, to);
            for (std::int64_t i = 0; i < size; i++) to[i] = given[i] * is.scale;
        }
        std::fill(query + lines * is.width, query + all_lines * is.width, 0.f);
    }

    void score_pages() {
        const std::int64_t size = is.width * is.page, value_size = is.page * is.value_width;
        for (std::int64_t at = origin; at < part.end; at += is.page) {
            fetch(is.values, home(at) * value_size, value_size);
            if (at + is.page < part.end) fetch(is.keys, home(at + is.page) * size, size);
            score(scores + at - origin, columns, query, is.keys, home(at) * size, lines, is.width, is.page, block);
        }
    }

    void sum_pages() {
        for (std::int64_t at = origin; at < part.end; at += is.page) {
            const std::int64_t from = std::max(at, part.first), until = std::min(at + is.page, part.end);
            const std::int64_t values = (home(at) * is.page - at) * is.value_width;  // of position 0, were it on this page
            const float* read = are_fast(is.values) ? nullptr
                : read_all(is.values, values + from * is.value_width, (until - from) * is.value_width, block);
            for (std::int64_t r = 0; r < part.rows; r++) {
                const std::int64_t begin = std::max(at, first(r)), count = std::min(until, last(r)) - begin;
                if (count <= 0) continue;
                const std::int64_t line = r * is.shared;
                sum(sums + line * stride, scores + line * columns + begin - origin, columns, is.values,
                    values + begin * is.value_width, count, is.shared, is.value_width,
                    read ? read + (begin - from) * is.value_width : nullptr);
            }
        }
        for (std::int64_t line = 0; line < lines; line++)
            for (std::int64_t at = first(line / is.shared); at < last(line / is.shared); at++)
                totals[line] += scores[line * columns + at - origin];
    }

#ifdef GRAFTWORK_AVX512
    // Call `gather(at, count)` for the positions of a tile, a page's at a time.
    template <typename Gather>
    void each_page(std::int64_t tile, Gather gather) const {
        const std::int64_t end = std::min(tile + TILE, part.end);
        for (std::int64_t at = tile, next; at < end; at = next) {
            next = std::min(end, round_up(at + 1, is.page));
            gather(at, next - at);
        }
    }

    // Call `work(line, begin, end)` for each LINES lines, from `line` on, that see some of a tile: from column `begin`
    // of it to `end`.
    template <typename Work>
    void each_group(std::int64_t tile, Work work) const {
        for (std::int64_t line = 0; line < lines; line += LINES) {
            const std::int64_t begin = std::max<std::int64_t>(0, first(line / is.shared) - tile);
            const std::int64_t end = std::min(TILE, last((std::min(line + LINES, lines) - 1) / is.shared) - tile);
            if (begin < end) work(line, begin, end);
        }
    }

    template <typename Kind>
    void score_tiles_of() {
        for (std::int64_t tile = origin; tile < part.end; tile += TILE) {
            each_page(tile, [&](std::int64_t at, std::int64_t count) {
                const auto* keys = Pages<Kind>::at(is.keys, home(at) * is.width * is.page + at % is.page);
                gather_keys<Kind>(block + at - tile, keys, is.width, count, is.page);
            });
            each_group(tile, [&](std::int64_t line, std::int64_t, std::int64_t end) {
                float* to = scores + line * columns + tile - origin;
                score_tile(to, columns, query + line * is.width, block, is.width, end);
            });
        }
    }

    template <typename Kind>
    void sum_tiles_of() {
        for (std::int64_t tile = origin; tile < part.end; tile += TILE) {
            each_page(tile, [&](std::int64_t at, std::int64_t count) {
                const auto* values = Pages<Kind>::at(is.values, (home(at) * is.page + at % is.page) * is.value_width);
                gather_values<Kind>(block + (at - tile) * stride, values, count, is.value_width, stride);
            });
            each_group(tile, [&](std::int64_t line, std::int64_t begin, std::int64_t end) {
                const float* weights = scores + line * columns + tile - origin + begin;
                sum_tile(
                    sums + line * stride, totals + line, weights, columns, block + begin * stride, end - begin, stride);
            });
        }
    }

    void score_tiles() { is.keys.dtype == Dtype::BF16 ? score_tiles_of<BFloats>() : score_tiles_of<Floats>(); }
    void sum_tiles() { is.values.dtype == Dtype::BF16 ? sum_tiles_of<BFloats>() : sum_tiles_of<Floats>(); }
#else
    void score_tiles() {}  // are_fast says no
    void sum_tiles() {}
#endif

    void write() {
        for (std::int64_t line = 0; line < lines; line++) {
            float* sum = sums + line * stride;
            const std::int64_t to = (place(line / is.shared) + line % is.shared) * is.value_width;
            for (std::int64_t j = 0; j < is.value_width; j++) sum[j] /= totals[line];
            for (std::int64_t j = 0; j < is.value_width; j += BLOCK)
                is.out.write(to + j, std::min(BLOCK, is.value_width - j), sum + j);
        }
    }

    const Call& is;
    const Part& part;
    const std::int64_t head;
    const bool tiled;
    const std::int64_t origin;   // the position of the first column
    const std::int64_t columns;  // whole pages or tiles
    const std::int64_t lines, all_lines;  // the latter whole groups of LINES, if tiled
    const std::int64_t stride;            // of sums
    float *query, *scores, *sums, *totals, *block;
};

}  // namespace

void paged_attention(
    const Array& out,
    const Array& q,
    const Array& keys,
    const Array& values,
    const Array& pages,
    const Array& spans,
    float scale,
    std::int64_t window) {
    const Call call{out, q, keys, values, scale, window};
    const std::int64_t rows = q.shape[0];
    check_sizes(rows * call.query_heads * call.value_width, std::vector<Array>{out});
    check_sizes(keys.shape[0] * call.heads * call.page * call.value_width, std::vector<Array>{values});
    const std::vector<Sequence> sequences = sequences_of(pages, spans, rows, keys.shape[0], call.page);
    std::vector<const Sequence*> dear;
    for (const Sequence& sequence : sequences) dear.push_back(&sequence);
    // The dear ones first, so that no thread is left with one when the others are done.
    std::stable_sort(dear.begin(), dear.end(), [](const Sequence* a, const Sequence* b) { return a->work() > b->work(); });
    std::vector<std::pair<Part, std::int64_t>> tasks;  // and their key heads
    std::int64_t work = 0;
    for (const Sequence* sequence : dear) {
        work += sequence->work() * call.query_heads * (call.width + call.value_width);
        const std::int64_t lines = std::clamp<std::int64_t>(MOST_SCORES / sequence->length, 8, MOST_LINES);
        const std::int64_t most = (lines + call.shared - 1) / call.shared;
        for (std::int64_t head = 0; head < call.heads; head++)  // whose keys stay near for all of its parts
            for (std::int64_t row = 0; row < sequence->count; row += most) {
                const std::int64_t begin = sequence->start() + row, end = std::min(begin + most, sequence->length);
                tasks.push_back({{sequence, row, end - begin, call.first_seen(begin), end}, head});
            }
    }
    for_each_task(static_cast<std::int64_t>(tasks.size()), work >= 2 * THREAD_WORK, [&](std::int64_t task) {
        const auto& [part, head] = tasks[static_cast<std::size_t>(task)];
        Attention(call, part, head).run();
    });
}

}  // namespace graftwork
