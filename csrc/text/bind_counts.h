// What bind.cpp takes from bind_counts.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace w2v::text {

void bind_counts(pybind11::module_& m);

}  // namespace w2v::text
