"""---
title: How to install
description: "Install rlgen and its notebooks with one command"
repo-actions: false
---"""
from rlgen._site import front_page

print(front_page('Install'))
