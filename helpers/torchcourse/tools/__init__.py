"""For authors and teachers: making notebooks and data, grading a class, measuring speed. No lesson imports it."""
