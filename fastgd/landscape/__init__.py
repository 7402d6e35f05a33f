"""What the loss looks like around the weights: along a line, over a plane, and along the path of a training.

    plane = fastgd.landscape.plane(model, lambda: model.evaluate(x, y).loss)
    plane.plot("plane.png")

A loss is any function of no arguments that returns a number and reads the parameters where they are. They are
moved in place while it is asked, and put back bit for bit, also when it raises or Ctrl-C comes.
"""

from fastgd.landscape.directions import filter_normalized, random_direction
from fastgd.landscape.path import Path
from fastgd.landscape.results import Line, Plane
from fastgd.landscape.scan import line, plane

__all__ = ["Line", "Path", "Plane", "filter_normalized", "line", "plane", "random_direction"]
