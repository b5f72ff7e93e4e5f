// The Python face of lines.cpp, part of w2v_ext._text; see w2v_ext/classify/lines.py.
#include "bind_lines.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "subwords.h"

namespace py = pybind11;

namespace w2v::text {

namespace {

template <class T>
py::array_t<T> to_array(std::vector<T>&& values) {
  auto* held = new std::vector<T>(std::move(values));
  const py::capsule owner(held, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(static_cast<py::ssize_t>(held->size()), held->data(), owner);
}

py::array_t<int32_t> word_hashes(const py::list& words) {
  py::array_t<int32_t> result(static_cast<py::ssize_t>(words.size()));
  int32_t* to = result.mutable_data();
  for (const py::handle word : words) {
    uint32_t hash = kHashStart;
    for (const char c : word.cast<std::string_view>()) hash = hash_byte(hash, c);
    *to++ = static_cast<int32_t>(hash);
  }
  return result;
}

}  // namespace

py::dict labelled_lines(Builder& builder, const std::string& label_prefix) {
  LabelledLines lines;
  {
    const py::gil_scoped_release unlocked;
    lines = builder.labelled_lines(label_prefix);
  }
  py::dict result;
  result["words"] = py::cast(lines.words);
  result["labels"] = py::cast(lines.labels);
  result["word_counts"] = to_array(std::move(lines.word_counts));
  result["label_counts"] = to_array(std::move(lines.label_counts));
  result["tokens"] = to_array(std::move(lines.tokens));
  result["ends"] = to_array(std::move(lines.ends));
  result["line_labels"] = to_array(std::move(lines.line_labels));
  result["label_ends"] = to_array(std::move(lines.label_ends));
  result["source_lines"] = to_array(std::move(lines.source_lines));
  result["replacements"] = builder.replacements();
  result["dropped_tokens"] = builder.dropped_tokens();
  return result;
}

void bind_lines(py::module_& m) {
  // fastText's hash of each word (bytes or str): what its n-grams of words are made of.
  m.def("word_hashes", &word_hashes, py::arg("words"));
}

}  // namespace w2v::text
