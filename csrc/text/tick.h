// How long work in C++ looks at Python now and then.
#pragma once

#include <pybind11/pybind11.h>

#include "builder.h"

namespace w2v::text {

// Takes the GIL, looks for signals and reports progress; the object must outlive the result.
inline Tick tick_for(const pybind11::object& progress) {
  return [&progress](uint64_t n) {
    const pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    if (!progress.is_none()) progress(n);
  };
}

}  // namespace w2v::text
