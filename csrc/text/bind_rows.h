// What bind.cpp takes from bind_rows.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace w2v::text {

void bind_rows(pybind11::module_& m);

}  // namespace w2v::text
