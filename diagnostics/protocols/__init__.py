"""How few-shot learners are judged: accuracies, intervals, floors, and generalized few-shot in one label space."""
