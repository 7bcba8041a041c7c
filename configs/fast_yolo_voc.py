"""Fast YOLO on Pascal VOC 2007 and 2012, the paper's settings; the data are those of yolo_v1_voc.

    python -m train fast_yolo_voc --data.root /data/VOC0712

Redmon et al. 2016, table 1: 52.7 mAP on VOC 2007 test. The paper gives the number of its convolutions, nine, and that
all else is as in YOLO; their channels and the hidden layer of 256 units are those of the network that came with it. Not
run here: it wants a GPU for a day.
"""

import dataclasses

from configs.yolo import YOLOv1
from configs.yolo_v1_voc import RECIPE as YOLO

RECIPE = dataclasses.replace(YOLO, model=YOLOv1(form="fast", convolutions=(), hidden=(256, 4096), dtype="bfloat16"))
