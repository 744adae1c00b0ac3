"""What a training run needs beside the loop of train.py: settings, states, processes, signals, scores."""
