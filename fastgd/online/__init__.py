"""Linear models fitted row by row: csrc/fastgd_online.h for Python, and the same in NumPy."""
