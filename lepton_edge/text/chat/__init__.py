"""Conversations: chat templates, messages and tools as they take them, and what a model's answer means."""

from lepton_edge.text.chat.folder import ChatTemplates
from lepton_edge.text.chat.messages import read_documents, read_messages, read_tools
from lepton_edge.text.chat.template import ChatTemplate

__all__ = ["ChatTemplate", "ChatTemplates", "read_documents", "read_messages", "read_tools"]
