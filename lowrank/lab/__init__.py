"""What notebooks show: settings with their intervals, pictures, controls, the page of figures."""
