#include "layers.h"

#include <stdexcept>

#include "native.h"
#include "scratch.h"
#include "threads.h"

namespace graftwork {
namespace {

// `rows` of `width` elements of the dtype of `like`, at an address.
Array rows_at(std::uintptr_t address, std::int64_t rows, std::int64_t width, const Array& like) {
    Array found = like;
    found.data = reinterpret_cast<char*>(address);
    found.shape = {rows, width};
    found.size = rows * width;
    return found;
}

std::uintptr_t address_of(const Array& array) { return reinterpret_cast<std::uintptr_t>(array.data); }

// The same in one of the rooms of a call.
Array rows_in(Scratch& scratch, std::size_t room, std::int64_t rows, std::int64_t width, const Array& like) {
    char* const at = scratch.room(room, rows * width * like.itemsize());
    return rows_at(reinterpret_cast<std::uintptr_t>(at), rows, width, like);
}

// As `rows`, which are seen as those of so many heads of `width` elements each.
Array by_head(Array rows, std::int64_t width) {
    rows.shape = {rows.shape[0], rows.shape[1] / width, width};
    return rows;
}

LEAF void add(float* RESTRICT to, const float* RESTRICT x, const float* RESTRICT y, std::int64_t count) {
    for (std::int64_t j = 0; j < count; j++) to[j] = x[j] + y[j];
}

// to = x + y, which may be the same.
void add_rows(const Array& to, const Array& x, const Array& y) {
    constexpr std::int64_t COST = 4;  // of an element, in multiplications
    split((to.size + BLOCK - 1) / BLOCK, COST * to.size, [&](std::int64_t begin, std::int64_t end) {
        Block given, added, made;
        for (std::int64_t j = begin * BLOCK; j < std::min(to.size, end * BLOCK); j += BLOCK) {
            const std::int64_t count = std::min(BLOCK, to.size - j);
            add(made.values, x.read(j, count, given.values), y.read(j, count, added.values), count);
            to.write(j, count, made.values);
        }
    });
}

}  // namespace

LinearLayer::LinearLayer(const Array& weight, const OptionalArray& bias) : weight(weight), bias(bias) {
    if (weight.shape.size() != 2) throw std::invalid_argument("a weight has two dimensions");
    check_sizes(weight.shape[0], bias);
}

void LinearLayer::compute(std::uintptr_t y, std::uintptr_t x, std::int64_t tokens, Added added) const {
    const std::int64_t out = weight.shape[0], width = weight.shape[1];
    const auto [rows, plan] = added;
    if (plan && (!rows || rows->tokens != tokens || !plan->fits(weight)))
        throw std::invalid_argument("the low rank is not one of this layer and its tokens");
    linear(rows_at(y, tokens, out, weight), rows_at(x, tokens, width, weight), weight, bias);
    if (plan) plan->add(*rows, x, y, out);
}

GatedLayers::GatedLayers(LinearLayer gate, LinearLayer up, LinearLayer down, std::string activation)
    : gate(std::move(gate)), up(std::move(up)), down(std::move(down)), activation(std::move(activation)) {
    const Array &g = this->gate.weight, &u = this->up.weight, &d = this->down.weight;
    if (g.shape != u.shape || d.shape[1] != g.shape[0] || g.dtype != u.dtype || g.dtype != d.dtype)
        throw std::invalid_argument("the layers do not fit each other");
}

void GatedLayers::compute(
    std::uintptr_t y,
    std::uintptr_t x,
    std::int64_t tokens,
    Added to_gate,
    Added to_up,
    Added to_down) const {
    const std::int64_t inner = gate.weight.shape[0];
    Scratch scratch;
    const Array middle = rows_in(scratch, 0, tokens, inner, gate.weight);
    const Array factor = rows_in(scratch, 1, tokens, inner, gate.weight);
    gate.compute(address_of(middle), x, tokens, to_gate);
    up.compute(address_of(factor), x, tokens, to_up);
    gated_product(middle, middle, factor, activation);
    down.compute(y, address_of(middle), tokens, to_down);
}

DecoderLayer::DecoderLayer(
    Norm before_attention,
    LinearLayer q,
    LinearLayer k,
    LinearLayer v,
    LinearLayer o,
    std::optional<Norm> of_queries,
    std::optional<Norm> of_keys,
    Norm before_feed_forward,
    GatedLayers feed_forward,
    float scale,
    std::int64_t window)
    : before_attention(std::move(before_attention)),
      q(std::move(q)),
      k(std::move(k)),
      v(std::move(v)),
      o(std::move(o)),
      of_queries(std::move(of_queries)),
      of_keys(std::move(of_keys)),
      before_feed_forward(std::move(before_feed_forward)),
      feed_forward(std::move(feed_forward)),
      scale(scale),
      window(window) {
    const std::int64_t hidden = this->q.weight.shape[1];
    const auto fits = [&](const LinearLayer& layer) { return layer.weight.dtype == this->q.weight.dtype; };
    const auto reads = [&](const LinearLayer& layer) { return fits(layer) && layer.weight.shape[1] == hidden; };
    const auto norms = [&](const std::optional<Norm>& norm, const LinearLayer& layer) {
        return !norm || (norm->first.size && layer.weight.shape[0] % norm->first.size == 0);
    };
    if (!reads(this->k) || !reads(this->v) || !fits(this->o) || this->o.weight.shape[0] != hidden ||
        this->before_attention.first.size != hidden || this->before_feed_forward.first.size != hidden ||
        !norms(this->of_queries, this->q) || !norms(this->of_keys, this->k) ||
        this->feed_forward.dtype() != this->q.weight.dtype || this->feed_forward.width() != hidden ||
        this->feed_forward.out() != hidden)
        throw std::invalid_argument("the parts of the layer do not fit each other");
}

void DecoderLayer::compute(
    std::uintptr_t y, std::uintptr_t x, const Step& step, const Cached& cached, const AddedToLayer& added) const {
    const auto& [keys, values] = cached;
    const auto& [to_q, to_k, to_v, to_o, to_gate, to_up, to_down] = added;
    const std::int64_t tokens = step.cos.shape.at(0), hidden = q.weight.shape[1], width = keys.shape.at(2);
    const std::int64_t queries = q.weight.shape[0], attended_width = o.weight.shape[1];
    if (k.weight.shape[0] != keys.shape[1] * width || v.weight.shape[0] != keys.shape[1] * values.shape.at(3) ||
        queries % width || attended_width != queries / width * values.shape[3])
        throw std::invalid_argument("the keys and values are not those of this layer");
    const Array given = rows_at(x, tokens, hidden, q.weight), out = rows_at(y, tokens, hidden, q.weight);
    enum Between { NORMED, MIDDLE, QUERY, KEY, VALUE, TURNED_QUERY, TURNED_KEY, ATTENDED };
    Scratch scratch;
    const auto between = [&](Between what, std::int64_t of) { return rows_in(scratch, what, tokens, of, q.weight); };
    const Array normed = between(NORMED, hidden), middle = between(MIDDLE, hidden);
    const auto norm = [](const Array& to, const Array& from, const Norm& by) { rms_norm(to, from, by.first, by.second); };

    norm(normed, given, before_attention);
    const auto projected = [&](const LinearLayer& layer, Between what, Added to) {
        const Array made = between(what, layer.weight.shape[0]);
        layer.compute(address_of(made), address_of(normed), tokens, to);
        return made;
    };
    const auto turned = [&](const Array& rows, const std::optional<Norm>& by, Between what) {
        if (by) norm(rows, rows, *by);
        const Array made = by_head(between(what, rows.shape[1]), width);
        rotary_embedding(made, rows, step.cos, step.sin);
        return made;
    };
    const Array query = turned(projected(q, QUERY, to_q), of_queries, TURNED_QUERY);
    const Array key = turned(projected(k, KEY, to_k), of_keys, TURNED_KEY);
    const Array value = by_head(projected(v, VALUE, to_v), values.shape[3]);
    paged_store(keys, values, key, value, step.pages, step.spans);
    const Array attended = by_head(between(ATTENDED, attended_width), values.shape[3]);
    paged_attention(attended, query, keys, values, step.pages, step.spans, scale, window);
    o.compute(address_of(normed), address_of(attended), tokens, to_o);
    add_rows(middle, given, normed);

    norm(normed, middle, before_feed_forward);
    feed_forward.compute(y, address_of(normed), tokens, to_gate, to_up, to_down);
    add_rows(out, middle, out);
}

void DecoderLayers::compute(
    std::uintptr_t y,
    std::uintptr_t x,
    const Step& step,
    const std::vector<Cached>& cached,
    const std::vector<AddedToLayer>& added) const {
    check_counts(layers.size(), {cached.size(), added.size()});
    for (std::size_t i = 0; i < layers.size(); i++) layers[i].compute(y, i ? y : x, step, cached[i], added[i]);
}

}  // namespace graftwork
