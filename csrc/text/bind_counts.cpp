// The Python face of cooccurrence.h and bigrams.h, part of w2v_ext._text. Arguments are checked in
// w2v_ext/cooccurrence.py and w2v_ext/phrases.py; the GIL is released while counting, and taken back now and then for
// signals and progress.
#include "bind_counts.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bigrams.h"
#include "cooccurrence.h"
#include "tick.h"

namespace py = pybind11;

namespace w2v::text {

namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;

std::span<const int32_t> span_of(const Ids& ids) { return {ids.data(), static_cast<size_t>(ids.size())}; }

template <typename T>
py::array_t<int64_t> to_array(const std::vector<T>& numbers) {
  py::array_t<int64_t> array(static_cast<py::ssize_t>(numbers.size()));
  std::copy(numbers.begin(), numbers.end(), array.mutable_data());
  return array;
}

py::dict count(const Ids& ids, int64_t vocab_size, int window, unsigned threads, size_t memory,
               const std::string& directory, const py::object& progress) {
  CellCounts counts;
  {
    const Tick tick = tick_for(progress);
    const std::span<const int32_t> all = span_of(ids);
    const py::gil_scoped_release unlocked;
    counts = count_cooccurrences(all, vocab_size, {window, threads, memory, directory}, tick);
  }
  py::list parts;
  for (const CellPart& part : counts.parts)
    parts.append(py::make_tuple(part.path, part.first_row, to_array(part.row_starts)));
  py::dict result;
  result["parts"] = parts;
  result["cells"] = counts.cells;
  result["diagonal"] = counts.diagonal;
  result["runs"] = counts.runs;
  result["spilled_bytes"] = counts.spilled_bytes;
  return result;
}

py::array_t<int64_t> arrange(const std::vector<std::tuple<std::string, int64_t, std::vector<uint64_t>>>& parts,
                             const std::vector<int64_t>& tiles, double x_max, double alpha, uint64_t seed,
                             unsigned threads, const std::string& path, const py::object& progress) {
  std::vector<CellPart> all;
  for (const auto& [name, first_row, row_starts] : parts) all.push_back({name, first_row, row_starts});
  std::vector<uint64_t> sizes;
  {
    const Tick tick = tick_for(progress);
    const py::gil_scoped_release unlocked;
    sizes = arrange_cells(all, {tiles, x_max, alpha, seed, threads, path}, tick);
  }
  return to_array(sizes);
}

py::dict bigrams(const Ids& ids, int64_t vocab_size, int64_t min_count, unsigned threads, size_t memory,
                 const py::object& progress) {
  BigramCounts counts;
  {
    const Tick tick = tick_for(progress);
    const std::span<const int32_t> all = span_of(ids);
    const py::gil_scoped_release unlocked;
    counts = count_bigrams(all, vocab_size, {min_count, threads, memory}, tick);
  }
  py::array_t<int64_t> frequent({static_cast<py::ssize_t>(counts.frequent.size()), py::ssize_t{3}});
  int64_t* to = frequent.mutable_data();
  for (const Bigram& b : counts.frequent) *to++ = b.first, *to++ = b.second, *to++ = b.count;
  py::dict result;
  result["words"] = to_array(counts.words);
  result["frequent"] = frequent;
  result["distinct"] = counts.distinct;
  result["readings"] = counts.readings;
  return result;
}

uint64_t join(const Ids& ids, int64_t vocab_size, const py::array_t<int64_t, py::array::c_style>& pairs,
              const std::string& path, const py::object& progress) {
  if (pairs.ndim() != 2 || pairs.shape(1) != 3) throw py::value_error("pairs: expected shape (N, 3)");
  std::vector<Bigram> all;
  std::vector<int32_t> joined;
  const int64_t* from = pairs.data();
  for (py::ssize_t i = 0; i < pairs.shape(0); ++i, from += 3) {
    if (std::min(from[0], from[1]) < 0 || std::max(from[0], from[1]) >= vocab_size)
      throw py::value_error("pairs: expected words of the vocabulary");
    all.push_back({static_cast<int32_t>(from[0]), static_cast<int32_t>(from[1]), 0});
    joined.push_back(static_cast<int32_t>(from[2]));
  }
  const Tick tick = tick_for(progress);
  const std::span<const int32_t> span = span_of(ids);
  const py::gil_scoped_release unlocked;
  return join_bigrams(span, vocab_size, all, joined, path, tick);
}

void lines(const Ids& ids, const std::vector<std::string>& words, const std::string& path, const py::object& progress) {
  const Tick tick = tick_for(progress);
  const std::span<const int32_t> span = span_of(ids);
  const py::gil_scoped_release unlocked;
  write_lines(span, words, path, tick);
}

}  // namespace

void bind_counts(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const BadId& e) {
      const std::string message =
          "ids: word " + std::to_string(e.id) + " at position " + std::to_string(e.position) + " is out of range";
      PyErr_SetString(PyExc_IndexError, message.c_str());
    }
  });
  m.def("count_cooccurrences", &count, py::arg("ids"), py::kw_only(), py::arg("vocab_size"), py::arg("window"),
        py::arg("threads"), py::arg("memory"), py::arg("directory"), py::arg("progress") = py::none());
  m.def("arrange_cells", &arrange, py::arg("parts"), py::kw_only(), py::arg("tiles"), py::arg("x_max"),
        py::arg("alpha"), py::arg("seed"), py::arg("threads"), py::arg("path"), py::arg("progress") = py::none());
  m.def("count_bigrams", &bigrams, py::arg("ids"), py::kw_only(), py::arg("vocab_size"), py::arg("min_count"),
        py::arg("threads"), py::arg("memory"), py::arg("progress") = py::none());
  m.def("join_bigrams", &join, py::arg("ids"), py::kw_only(), py::arg("vocab_size"), py::arg("pairs"), py::arg("path"),
        py::arg("progress") = py::none());
  m.def("write_lines", &lines, py::arg("ids"), py::kw_only(), py::arg("words"), py::arg("path"),
        py::arg("progress") = py::none());
}

}  // namespace w2v::text
