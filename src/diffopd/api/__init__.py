"""What ``import diffopd`` offers: the commands as functions, with exceptions in place of exit codes.

``diffopd.__all__`` lists these names; what brings torch is imported inside the functions.
"""

from diffopd.api.evaluation import Evaluation as Evaluation
from diffopd.api.evaluation import evaluate_model as evaluate_model
from diffopd.api.export import export_adapter as export_adapter
from diffopd.api.export import push_to_hub as push_to_hub
from diffopd.api.sampling import Model as Model
from diffopd.api.sampling import image_sheet as image_sheet
from diffopd.api.sampling import load_model as load_model
from diffopd.api.sampling import sample_images as sample_images
from diffopd.api.training import Run as Run
from diffopd.api.training import build_experiment as build_experiment
from diffopd.api.training import compose as compose
from diffopd.api.training import train_model as train_model
from diffopd.check import ConfigError as ConfigError
from diffopd.command.called import StoppedError as StoppedError
