"""How clients connect: the page, llms.txt, and the plugin that this server serves."""
