"""The text encoder in torch; knows neither files nor text."""
