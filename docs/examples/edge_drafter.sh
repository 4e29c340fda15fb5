# Where torch is, once: a small model as a folder that ONNX Runtime runs (pip install 'paceline-drafter[export]').
paceline-drafter export --model HuggingFaceTB/SmolLM2-135M-Instruct --out edge-model

# On the device, which needs no torch (pip install 'paceline-drafter[edge]') and no open port: it dials.
paceline-drafter serve --router 127.0.0.1:7700 --name edge --strategies suffix,onnx_lm --revision edge-model --threads 1
