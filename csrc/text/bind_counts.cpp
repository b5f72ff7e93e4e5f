// The Python face of cooccurrence.h and bigrams.h, part of w2v_ext._text. Arguments are checked in w2v_ext/cooccurrence.py
// and w2v_ext/phrases.py; the GIL is released while counting, and taken back now and then for signals and progress.
#include "bind_counts.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

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
}

}  // namespace w2v::text
