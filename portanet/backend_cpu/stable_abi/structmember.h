// The members of types are in Python.h here.
#include "Python.h"
