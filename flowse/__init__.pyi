from flowse.enhanced_files import enhance_file as enhance_file
from flowse.enhancer import Enhancer as Enhancer
from flowse.enhancer import Windowing as Windowing
from flowse.flow.sampling import Sampling as Sampling

__version__: str
