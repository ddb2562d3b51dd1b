r"""Contact sheets of what models see (Figures 2 and 4 to 7 of the paper), with images chosen by rule.

    python recipes/figures.py --model outputs/voc-plain outputs/voc-msl --dataset voc --data_dir data/VOCdevkit \
        --output_dir outputs/figures

small_objects.png: the largest instance of a class is small. occluded_objects.png: every instance of a class is mostly
hidden. masked_objects.png: a mask removes nearly all of an object. visible_objects.png: the mask spares an object.
Each row has the image, what the models see, the class's score map and the top three predictions of each model.
"""

import sys

from msl_hf.runs.arguments import parse_flags
from msl_hf.runs.figures import FigureArguments, draw_figures
from msl_hf.runs.train import main

if __name__ == "__main__":
    main(lambda: draw_figures(*parse_flags(sys.argv[1:], __doc__, FigureArguments)))
